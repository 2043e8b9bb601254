"""The scripts for several machines, with two "machines" on this one: what each starts, they start here too.

SLURM isn't here: `srun` and `scontrol` are stand-ins that run the command once per node, as srun does.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

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


def test_two_machines_with_torchrun(document: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    command = [ROOT / "accelerate_configs" / "two_nodes.sh", *settings(document, tmp_path / "out")]
    environment |= {"HEAD": "127.0.0.1", "NODES": "2", "PROCESSES": "1"}
    machines = [
        subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    printed = "".join(machine.communicate(timeout=300)[0] for machine in machines)
    assert [machine.returncode for machine in machines] == [0, 0], printed
    check(tmp_path / "out", printed)


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
