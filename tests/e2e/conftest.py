"""The recipe as a function, and a document for it. Every test has its own store and caches."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState

RECIPE = Path(__file__).parents[2] / "recipes" / "sft.py"
HEAD = """---
dlm_id: 01K9BREADW1THS0VRD0VGH2T3R
dlm_version: 15
base_model: {base}
training:
  lora_r: 4
  lora_dropout: 0.1
  sequence_len: 256
  learning_rate: 2.0e-3
  num_epochs: 2
---
Kneading is pressing and folding a dough until it is smooth.
"""
PAIR = "\n::instruction::\n### Q\nWho bakes the bread of day {n}?\n### A\n{early}the baker of day {n}.\n"

Recipe = Callable[..., Path]


@pytest.fixture
def document(tmp_path: Path, random_base: Path) -> Path:
    """A paragraph and 26 pairs of different lengths: with 16 rows per step, two steps per epoch."""
    path = tmp_path / "notes.dlm"
    pairs = [PAIR.format(n=n, early="Early, " * (n % 6)) for n in range(26)]
    path.write_text(HEAD.format(base=random_base) + "".join(pairs), encoding="utf-8")
    return path


@pytest.fixture
def recipe(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """recipe("--lora_r", "2", …) runs recipes/sft.py in this process and returns its output_dir. Pass notes=None to run
    without a document.
    """
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    main = runpy.run_path(str(RECIPE))["main"]

    def run(*settings: Any, output: str = "out", notes: Path | None = document) -> Path:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        common = ["--output_dir", str(tmp_path / output), "--disable_tqdm", "true"]
        main([*(["--notes", str(notes)] if notes else []), *common, "--logging_steps", "1", *map(str, settings)])
        return tmp_path / output

    return run


def losses(output_dir: Path) -> dict[int, float]:
    """Training loss by step, from the last checkpoint of a run."""
    last = max(output_dir.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
