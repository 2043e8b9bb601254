"""recipes/dpo.py on a base with random weights: its reference, what a run leaves, resuming, two processes."""

import json
import math
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from typer.testing import CliRunner

from dlm_trl.cli.main import app
from dlm_trl.models import lineage
from dlm_trl.models.load import load_adapted, load_base, load_tokenizer
from dlm_trl.notes import store
from tests.e2e.conftest import RECIPE, losses
from tests.e2e.test_launch import CONFIGS, environment

DPO = RECIPE.with_name("dpo.py")
DLM_ID = "01K9BREADW1THS0VRD0VGH2T3R"
HEAD = """---
dlm_id: 01K9BREADW1THS0VRD0VGH2T3R
dlm_version: 15
base_model: {base}
training:
  sequence_len: 256
  preference:
    hyperparams: {{beta: 0.2, learning_rate: 2.0e-3, num_epochs: 2}}
---
Kneading is pressing and folding a dough until it is smooth.
"""
PAIR = "\n::instruction::\n### Q\nWho bakes the bread of day {n}?\n### A\nThe baker of day {n}.\n"
ROW = """
::preference::
### Prompt
What is loaf {n} made of?
### Chosen
Flour and water.
### Rejected
A good question, and loaf {n} is surely made of {more}many things.
"""

Dpo = Callable[..., Path]


@pytest.fixture
def document(tmp_path: Path, random_base: Path) -> Path:
    """Four pairs, and 32 preference rows of different lengths: with 16 rows per step, two steps per epoch."""
    path = tmp_path / "notes.dlm"
    rows = [PAIR.format(n=n) for n in range(4)] + [ROW.format(n=n, more="very " * (n % 5)) for n in range(32)]
    path.write_text(HEAD.format(base=random_base) + "".join(rows), encoding="utf-8")
    return path


@pytest.fixture
def dpo(document: Path, trained_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dpo:
    """dpo("--beta", "2", …) runs recipes/dpo.py in this process and returns its output_dir."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    main = runpy.run_path(str(DPO))["main"]

    def run(*settings: Any, output: str = "out", start: Path = trained_adapter) -> Path:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        common = ["--notes", document, "--adapter_from", start, "--output_dir", tmp_path / output]
        main([str(word) for word in [*common, "--disable_tqdm", "true", "--logging_steps", "1", *settings]])
        return tmp_path / output

    return run


def history(output_dir: Path) -> list[dict[str, float]]:
    """The log lines of the training steps, from the last checkpoint."""
    last = max(output_dir.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1]))
    lines = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [line for line in lines if "loss" in line]


QUIET = ("--measure", "false", "--eval_strategy", "no")


def test_the_reference_is_the_adapter_that_the_run_begins_from(dpo: Dpo) -> None:
    first = history(dpo(*QUIET, "--num_train_epochs", 1))[0]
    assert first["rewards/chosen"] == first["rewards/rejected"] == first["rewards/margins"] == 0.0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the log rounds
    of_base = history(dpo(*QUIET, "--num_train_epochs", 1, "--reference", "base", output="base"))[0]
    assert abs(of_base["rewards/chosen"]) > 0.01, "the adapter changes the base's output"


def test_a_run_leaves_an_adapter_that_can_be_merged_and_verified(
    dpo: Dpo, trained_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = shutil.copytree(trained_adapter, tmp_path / "start")
    out = dpo("--num_train_epochs", 4, "--validation_fraction", 0.2, start=start)
    printed = capsys.readouterr().out
    assert "rows to train on" in printed and "notes.dlm:8" in printed
    assert not (out / "ref").exists()
    assert (out / "adapter_model.safetensors").read_bytes() != (start / "adapter_model.safetensors").read_bytes()
    (made,) = lineage.read(out)
    assert made["adapter_from"]["folder"] == str(start)
    assert made["adapter_from"]["adapter_model.safetensors"] == lineage.file_hash(start / "adapter_model.safetensors")
    assert made["preferences"] == {"loss": ["sigmoid"], "beta": 0.2, "reference": "pre_adapter"}
    current = store.current_adapter(DLM_ID)
    assert current is not None and sorted(lineage.read(current)) == sorted(lineage.read(out))
    assert "preference optimisation" in (current / "README.md").read_text()
    load_adapted(current)

    report = json.loads((out / "report.json").read_text())
    named = {measure["name"]: measure for measure in report["measures"]}
    for group in ("trained", "held-out"):
        assert named[f"reward accuracy, {group}"]["before"] == named[f"reward margin, {group}"]["before"] == 0.0
    assert named["reward accuracy, trained"]["after"] == 1.0
    assert named["reward margin, trained"]["after"] > 0.1
    assert named["F1, seen"]["before"] is not None
    assert "validation loss" not in named
    assert {sample["group"] for sample in report["samples"]} >= {"preferences, trained", "seen"}
    assert report["run"]["rows that still reward the rejected answer"] == "none"
    assert (out / "report.png").stat().st_size > 1000

    for command in (["merge", out, tmp_path / "merged"], ["verify", out, tmp_path / "merged"]):
        done = CliRunner().invoke(app, [str(word) for word in command])
        assert done.exit_code == 0, (command, done.output, done.exception)


def test_a_resumed_run_equals_the_uninterrupted_one(dpo: Dpo) -> None:
    settings = (*QUIET, "--save_strategy", "steps", "--save_steps", 1, "--save_total_limit", 99)
    whole = dpo(*settings, output="whole")
    out = dpo(*settings, output="resumed")
    for step in range(2, max(losses(whole)) + 1):
        shutil.rmtree(out / f"checkpoint-{step}")
    dpo(*settings, "--resume_from_checkpoint", "true", output="resumed")
    assert losses(out) == losses(whole)
    a, b = ((out.parent / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "resumed"))
    assert a == b


def test_a_run_is_not_resumed_from_another_adapter(dpo: Dpo, trained_adapter: Path, tmp_path: Path) -> None:
    settings = (*QUIET, "--max_steps", 1, "--warmup_steps", 0, "--save_strategy", "steps", "--save_steps", 1)
    out = dpo(*settings)
    with pytest.raises(Exception, match=r"can't be resumed with other settings.*adapter_from"):
        dpo(*settings, "--resume_from_checkpoint", "true", start=Path(shutil.copytree(out, tmp_path / "other")))


def test_a_dora_adapter_goes_on(dpo: Dpo, random_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", use_dora=True)
    get_peft_model(load_base(str(random_base)), config).save_pretrained(tmp_path / "dora")
    load_tokenizer(str(random_base)).save_pretrained(tmp_path / "dora")
    lines = history(dpo(*QUIET, "--num_train_epochs", 8, "--learning_rate", 0.01, start=tmp_path / "dora"))
    assert lines[0]["rewards/margins"] == 0.0
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


@pytest.mark.heavy
def test_two_processes_equal_one(dpo: Dpo, document: Path, trained_adapter: Path, tmp_path: Path) -> None:
    settings = (*QUIET, "--save_strategy", "epoch", "--max_grad_norm", "0", "--validation_fraction", "0")
    one = dpo(*settings, output="one")
    two = tmp_path / "two"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / "cpu_2proc.yaml", DPO]
    command += ["--notes", document, "--adapter_from", trained_adapter, "--output_dir", two, "--world_size", "2"]
    command += ["--disable_tqdm", "true", "--logging_steps", "1", *settings]
    done = subprocess.run(
        [str(word) for word in command], env=environment(tmp_path), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "world size: 2" in done.stdout
    assert history(two)[0]["rewards/margins"] == 0.0
    assert losses(two) == pytest.approx(losses(one), abs=1e-3)
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    assert all((a[name] - b[name]).abs().max() < 2e-3 for name in a)
