"""The recipe in real processes: stopped by signals, and on two processes with DDP and DeepSpeed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from dlm_trl.cli.main import app
from dlm_trl.doctor import launch_files
from dlm_trl.notes import store
from tests.e2e.conftest import RECIPE, Recipe, losses

CONFIGS = RECIPE.parents[1] / "accelerate_configs"
LINE = ("--logging_steps", "1", "--disable_tqdm", "true", "--measure", "false")


def environment(tmp_path: Path) -> dict[str, str]:
    """This process's environment, without a GPU and with its own store; its lines can be read as they are printed."""
    own = {"CUDA_VISIBLE_DEVICES": "", "DLM_HOME": str(tmp_path / "home"), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own}


@pytest.mark.heavy
def test_train_starts_a_process_for_each_of_several_gpus(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Without GPUs, only their number is faked: the launch file really starts two processes, on the CPU.
    monkeypatch.setattr(launch_files, "here", lambda: launch_files.Here(gpus=2, deepspeed=False))
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    settings = ["max_steps=1", "measure=false", "world_size=2", f"output_dir={tmp_path / 'out'}"]
    done = CliRunner().invoke(app, ["train", str(document), *settings])
    output = capfd.readouterr()
    assert done.exit_code == 0, output.err
    assert "2 processes, one per GPU" in done.output + output.err
    assert "world size: 2 (MULTI_CPU" in output.out + output.err
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()

    refused = CliRunner().invoke(app, ["train", str(document), *settings, "world_size=3"])
    printed = refused.output + "".join(capfd.readouterr())
    assert refused.exit_code == 1 and "Traceback" not in printed
    assert printed.count("The run has 2 processes, and world_size asks for 3.") == 1


TRAIN_ON_TWO = """
import sys
from dlm_trl.cli import main
from dlm_trl.doctor import launch_files
launch_files.here = lambda: launch_files.Here(gpus=2, deepspeed=False)
main.main()
"""


@pytest.mark.heavy
def test_a_killed_process_is_one_line(document: Path, tmp_path: Path) -> None:
    words = ["train", document, f"output_dir={tmp_path / 'out'}", "max_steps=1000", "measure=false"]
    words += ["logging_steps=1", "disable_tqdm=true"]
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN_ON_TWO, *map(str, words)],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as launcher:
        output = []
        for line in launcher.stdout:
            output.append(line)
            if "'loss'" in line:
                break
        (second,) = [c for c in psutil.Process(launcher.pid).children() if c.environ().get("RANK") == "1"]
        second.kill()
        output += launcher.stdout.readlines()
    assert launcher.returncode == 1 and "Traceback" not in "".join(output), "".join(output)
    assert output[-1].startswith("Process 1 of 2 was killed by SIGKILL, and the others were stopped. ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_a_checkpoint_to_resume_from(
    recipe: Recipe, document: Path, tmp_path: Path, number: signal.Signals
) -> None:
    settings = (*LINE, "--num_train_epochs", "300", "--save_strategy", "no", "--eval_strategy", "no")
    out = tmp_path / "out"
    command = [sys.executable, str(RECIPE), "--notes", str(document), "--output_dir", str(out), *settings]
    with subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        output = []
        for line in process.stdout:
            output.append(line)
            if "'loss'" in line and process.poll() is None:
                process.send_signal(number)
                break
        output += process.stdout.readlines()
    assert process.returncode == 128 + number, "".join(output)
    assert "Traceback" not in "".join(output)
    (checkpoint,) = out.glob("checkpoint-*")
    stopped = int(checkpoint.name.split("-")[1])
    assert f"{checkpoint} is complete" in "".join(output)
    assert not store.adapter_dir("01K9BREADW1THS0VRD0VGH2T3R").exists()

    more = ("--max_steps", stopped + 2, *settings, "--save_strategy", "steps", "--save_steps", 1)
    recipe(*more, "--resume_from_checkpoint", "true")
    assert max(losses(out)) == stopped + 2


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.heavy) for n in (signal.SIGINT, signal.SIGKILL))]
)
def test_a_run_that_is_killed_while_it_measures_keeps_its_adapter(
    document: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    settings = ("--num_train_epochs", "1", "--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true")
    command = [sys.executable, str(RECIPE), "--notes", str(document), "--output_dir", str(out), *settings]
    with subprocess.Popen(
        command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        for line in process.stdout:
            if line.startswith("adapter: "):  # what follows is the measurement
                process.send_signal(number)
                break
        printed = process.stdout.read()
    home = tmp_path / "home"
    (published,) = home.rglob("adapter_model.safetensors")
    assert published.read_bytes() == (out / "adapter_model.safetensors").read_bytes()
    assert (published.parent / "lineage.json").is_file() and (published.parent / "README.md").is_file()
    # On a fast machine the measurement may be over before the signal arrives.
    assert process.returncode == 0 or not (out / "report.md").exists()
    if number != signal.SIGKILL and process.returncode != 0:
        assert process.returncode == 128 + number
        assert printed.splitlines()[-1].startswith("Stopped: the adapter is complete")
        assert "Traceback" not in printed


SYNTHETIC = ("--task", "arithmetic", "--synthetic_fraction", "0.5", "--rehearsal", "2")


@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ("cpu_2proc", ()),
        pytest.param("deepspeed_zero2_cpu", SYNTHETIC, marks=pytest.mark.heavy),
        pytest.param("deepspeed_zero3_cpu", (), marks=pytest.mark.heavy),
        ("deepspeed_zero3_cpu", SYNTHETIC),
    ],
)
def test_two_processes_equal_one(
    recipe: Recipe, document: Path, tmp_path: Path, shape: str, more: tuple[str, ...]
) -> None:
    settings = (*LINE, "--lora_dropout", "0", "--num_train_epochs", "2", *more)
    one = recipe(*settings, output="one")
    two = tmp_path / "two"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / f"{shape}.yaml", RECIPE]
    command += ["--notes", document, "--output_dir", two, *settings, "--world_size", "2"]
    started = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command], env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "world size: 2" in done.stdout
    assert ("DEEPSPEED" in done.stdout) == ("deepspeed" in shape)
    assert "ninja" not in done.stdout + done.stderr, f"an operator was compiled ({time.monotonic() - started:.0f} s)"
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert {name: tensor.shape for name, tensor in a.items()} == {name: tensor.shape for name, tensor in b.items()}
    assert all((a[name] - b[name]).abs().max() < 1e-3 for name in a)


@pytest.mark.heavy
def test_a_run_of_two_processes_is_resumed_by_one(recipe: Recipe, document: Path, tmp_path: Path) -> None:
    settings = (*LINE, "--lora_dropout", "0", "--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2")
    whole = recipe(*settings, output="whole")
    out = tmp_path / "resumed"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / "cpu_2proc.yaml", RECIPE]
    command += ["--notes", document, "--output_dir", out, *settings, "--world_size", "2"]
    done = subprocess.run(
        [str(word) for word in command], env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(out / "checkpoint-4")
    recipe(*settings, "--resume_from_checkpoint", "true", "--overwrite", "true", output="resumed")
    assert losses(out) == pytest.approx(losses(whole), abs=1e-4)
