"""Runs whose disk is full at some point: one line, and the last whole checkpoint or adapter stays usable."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GenerationConfig
from trl import SFTTrainer

from dlm_trl.notes import DlmError, store
from dlm_trl.notes.store import adapter_dir
from dlm_trl.train.checkpoints import last_checkpoint
from dlm_trl.train.save import generation_config
from tests.e2e.conftest import RECIPE, Recipe
from tests.e2e.test_launch import environment
from tests.support import LIMIT, full_disk

DLM_ID = "01K9BREADW1THS0VRD0VGH2T3R"
SETTINGS = (
    "--measure",
    "false",
    "--max_steps",
    12,
    "--save_strategy",
    "steps",
    "--save_steps",
    3,
    "--eval_strategy",
    "no",
)
SETTINGS += ("--resume_from_checkpoint", "true", "--overwrite", "true", "--save_total_limit", 1)


def run_until_the_first_checkpoint(
    document: Path, out: Path, act: Callable[[subprocess.Popen[str]], None]
) -> tuple[int, str]:
    """Run the recipe and call act(process) as soon as the first checkpoint is sealed; its exit code and output."""
    words = ["--notes", document, "--output_dir", out, *SETTINGS, "--logging_steps", 1, "--disable_tqdm", "true"]
    with subprocess.Popen(
        [sys.executable, str(RECIPE), *map(str, words)],
        env=environment(document.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    ) as process:
        output = ""
        for line in process.stdout:
            output += line
            # The checkpoint of step 3 was sealed before step 4, which is logged before the next one is written.
            if line.count("'loss'") and output.count("'loss'") == 4:
                act(process)
    return process.returncode, output


def fill(filler: Path) -> None:
    """Write this file until its disk is full."""
    with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(2**14))


def check_that_it_resumes(recipe: Recipe, out: Path, code: int, output: str) -> None:
    last = output.strip().splitlines()[-1]
    assert code == 1 and "Traceback" not in output, output
    assert last.startswith(f"{out / 'checkpoint-'}") and "The checkpoint can't be written: " in last
    assert last.endswith("Free some space, then rerun with --resume_from_checkpoint true --overwrite true.")
    (whole,) = out.glob("checkpoint-*")  # the part of the new one is gone
    assert last_checkpoint(str(out)) == (str(whole), [])
    uninterrupted = recipe(*SETTINGS, output="uninterrupted") / "adapter_model.safetensors"
    recipe(*SETTINGS, output=out.relative_to(uninterrupted.parents[1]))
    assert (out / "adapter_model.safetensors").read_bytes() == uninterrupted.read_bytes()


def test_a_checkpoint_that_cant_be_written_leaves_the_one_before(
    recipe: Recipe, document: Path, tmp_path: Path
) -> None:
    def limit(process: subprocess.Popen[str]) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    code, output = run_until_the_first_checkpoint(document, tmp_path / "out", limit)
    check_that_it_resumes(recipe, tmp_path / "out", code, output)


def test_a_full_disk_leaves_the_checkpoint_before(recipe: Recipe, document: Path, tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", size=64 * 2**20) as disk:
        filler = disk / "filler"

        code, output = run_until_the_first_checkpoint(document, disk / "out", lambda process: fill(filler))
        assert filler.stat().st_size > 2**20, output
        filler.unlink()
        check_that_it_resumes(recipe, disk / "out", code, output)


def test_a_full_store_is_reported_in_one_line_and_the_report_is_written(
    recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The version can be copied, but current.txt can't be replaced.
    (pointer := tmp_path / "home" / "store" / DLM_ID / "adapter" / "current.txt").mkdir(parents=True)
    out = recipe("--max_steps", 1, "--max_questions", 1, "--save_strategy", "no", "--eval_strategy", "no")
    lines = [line for line in capfd.readouterr().err.splitlines() if str(pointer) in line]
    assert len(lines) == 1 and f"The adapter is in {out}. Then: dlm-trl publish" in lines[0]
    assert (out / "report.md").is_file() and (out / "adapter_model.safetensors").is_file()
    pointer.rmdir()
    assert store.current_adapter(DLM_ID) is None and adapter_dir(DLM_ID).is_dir()


def test_an_adapter_that_cant_be_written_leaves_the_one_before(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("--measure", "false", "--save_strategy", "no", "--eval_strategy", "no")
    with full_disk(tmp_path / "disk", size=64 * 2**20) as disk:
        out = recipe(*settings, "--max_steps", 1, output="disk/out")
        before = (out / "adapter_model.safetensors").read_bytes()

        def filled(trainer: SFTTrainer) -> GenerationConfig:
            fill(disk / "filler")
            return generation_config(trainer)

        monkeypatch.setattr("dlm_trl.train.save.generation_config", filled)
        with pytest.raises(DlmError, match=r"The adapter can't be written: No space left .* Free some space") as caught:
            recipe(*settings, "--max_steps", 2, output="disk/out")
        assert "\n" not in str(caught.value)
        assert (out / "adapter_model.safetensors").read_bytes() == before
        assert not list(out.glob(".*"))
