"""The scripts for several machines, with two "machines" on this one: what each starts, they start here too.

SLURM isn't here: `srun` and `scontrol` are stand-ins that run the command once per node, as srun does.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import RECIPE

pytestmark = pytest.mark.heavy
ROOT = RECIPE.parents[1]
SRUN = """#!/usr/bin/env bash
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first && wait $second
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """PATH with the programs of this environment and the stand-ins; a free port; a store of its own."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, script in {"srun": SRUN, "scontrol": "#!/bin/sh\necho 127.0.0.1\n"}.items():
        (stand_ins / name).write_text(script)
        (stand_ins / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(stand_ins), str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "PORT": str(port), "DLM_HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own}


def settings(document: Path, out: Path) -> list[str]:
    return ["--notes", str(document), "--output_dir", str(out), "--max_steps", "1", "--measure", "false"]


def check(out: Path, printed: str) -> None:
    assert "world size: 2" in printed, printed
    assert (out / "adapter_model.safetensors").is_file()


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """One of two machines with torchrun. words: the settings of the recipe, after a command to run the script with."""
    at = words.index("--notes")
    return subprocess.Popen(
        [*words[:at], str(ROOT / "accelerate_configs" / "two_nodes.sh"), *words[at:]],
        env=environment | {"HEAD": "127.0.0.1", "NODES": "2", "PROCESSES": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_both(environment: dict[str, str], first: list[str], second: list[str]) -> list[tuple[int, str]]:
    """Exit code and output of two machines with these settings."""
    machines = [start(environment, *words) for words in (first, second)]
    printed = [machine.communicate(timeout=300)[0] for machine in machines]
    return [(machine.returncode, output) for machine, output in zip(machines, printed, strict=True)]


def test_two_machines_with_torchrun(document: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    words = settings(document, tmp_path / "out")
    both = run_both(environment, words, words)
    printed = "".join(output for _, output in both)
    assert [code for code, _ in both] == [0, 0], printed
    assert "Warning: process" not in printed
    check(tmp_path / "out", printed)


def test_machines_that_start_from_something_else_say_so_and_end(
    document: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = settings(document, tmp_path / "out")
    found = "The processes of this run don't start from the same: learning_rate is 0.002 in process "
    for code, printed in run_both(environment, words, [*words, "--learning_rate", "0.001"]):
        assert code == 1 and printed.count(found) == 1, printed
    moved = document.rename(tmp_path / "moved.dlm")
    here, there = settings(moved, tmp_path / "out"), words
    for code, printed in run_both(environment, here, there):
        assert code == 1 and f"{document}: The file cannot be read: No such file" in printed, printed


def test_a_machine_with_a_disk_of_its_own_cant_resume(
    document: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    hidden = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs {out} && exec "$@"', "sh"]
    if subprocess.run([*hidden, "true"], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    words = [*settings(document, out), "--save_strategy", "steps", "--save_steps", "1", "--overwrite", "true"]
    words += ["--resume_from_checkpoint", "true"]
    both = run_both(environment, words, [*hidden, *words])
    printed = "".join(output for _, output in both)
    assert [code for code, _ in both] == [0, 0], printed
    assert f"can't see {out}: no checkpoint can be resumed." in printed
    for code, printed in run_both(environment, words, [*hidden, *words]):
        assert code == 1 and "don't start from the same: the checkpoint is " in printed, printed


def test_a_process_on_another_machine_that_is_killed_is_reported(
    document: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = [*settings(document, tmp_path / "out"), "--logging_steps", "1", "--disable_tqdm", "true"]
    words[words.index("--max_steps") + 1] = "1000"
    machines = [start(environment | {"PYTHONUNBUFFERED": "1"}, *words) for _ in range(2)]
    workers = {}
    while len(workers) < 2:
        time.sleep(0.5)
        assert all(machine.poll() is None for machine in machines)
        for machine in machines:
            for child in psutil.Process(machine.pid).children():
                workers[child.environ().get("RANK")] = (machine, child)
    first, (second, worker) = workers["0"][0], workers["1"]
    for line in first.stdout:
        if "'loss'" in line:
            worker.kill()
            break
    printed = first.communicate(timeout=300)[0]
    second.communicate(timeout=300)
    assert [first.returncode, second.returncode] == [1, 1]
    said = printed.partition("torch/distributed/elastic")[0]  # what the launcher adds
    assert "Another process of the run has ended (" in said and "Traceback" not in said


def test_a_job_on_two_nodes_of_slurm(document: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    script = ROOT / "accelerate_configs" / "slurm.sbatch"
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "LAUNCH": "cpu_2proc"}
    done = subprocess.run(
        ["bash", script, *settings(document, tmp_path / "out")],
        env=environment | job,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path / "out", done.stdout + done.stderr)


def test_the_address_of_the_first_machine_is_asked_for(environment: dict[str, str]) -> None:
    environment.pop("HEAD", None)
    done = subprocess.run(
        [ROOT / "accelerate_configs" / "two_nodes.sh"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0 and "HEAD=10.0.0.1" in done.stderr
