"""Two real processes train on the same rows as one, each on its slice; also when they resume or have no rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.online.train_online import train

ROOT = Path(__file__).parents[2]
Run = dict[str, Any]


def rows(runs: list[Run]) -> dict[tuple[int, int, int], dict[str, Any]]:
    """The drafts of all processes by (step, index, attempt), which must be unique."""
    drafts = [json.loads(line) for run in runs for line in run["rows"].splitlines()]
    named = {(row["step"], row["index"], row["attempt"]): row for row in drafts}
    assert len(named) == len(drafts)
    return named


def figures(run: Run) -> dict[str, list[float]]:
    """A run's logged `online/` values, except the one that depends on the clock."""
    names = {name for line in run["log"] for name in line if name.startswith("online/")} - {"online/generation_share"}
    return {name: [float(line[name]) for line in run["log"] if name in line] for name in names}


def losses(run: Run) -> list[float]:
    return [float(line["loss"]) for line in run["log"]]


@pytest.fixture(scope="module")
def alone(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One process, with as many rows per step as two have together, by task."""
    runs = {}
    for task, steps in (("letters", 4), ("told", 2)):
        output = tmp_path_factory.mktemp(task)
        train(str(random_base), str(output), accumulation=2, task=task, steps=steps)
        runs[task] = json.loads((output / "run-0.json").read_text())
    return runs


@pytest.mark.parametrize(
    "shape", ["cpu_2proc", pytest.param("deepspeed_zero2_cpu", marks=pytest.mark.heavy), "deepspeed_zero3_cpu"]
)
def test_two_processes_equal_one(random_base: Path, tmp_path: Path, alone: dict[str, Run], shape: str) -> None:
    both, scarce, told = (str(tmp_path / name) for name in ("both", "scarce", "told"))
    common = {"model": str(random_base), "accumulation": 1}
    work = [
        {"output": both, "task": "letters", **common},
        {"output": scarce, "task": "scarce", "steps": 3, **common},
        {"output": told, "task": "told", "steps": 2, **common},
        {"output": both, "task": "letters", "resume": f"{both}/checkpoint-2", **common},
    ]
    work = work if shape == "cpu_2proc" else work[:3]
    launch = ["accelerate.commands.launch", "--config_file", str(ROOT / f"accelerate_configs/{shape}.yaml")]
    command = [sys.executable, "-m", *launch, "-m", "tests.online.train_online", json.dumps(work)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-4000:]

    # There are two processes, and together they train on what one trains on.
    runs = [json.loads((tmp_path / f"both/run-{rank}.json").read_text()) for rank in range(2)]
    assert [run["world"] for run in runs] == [2, 2]
    assert ("DEEPSPEED" in runs[0]["kind"]) == ("deepspeed" in shape)
    assert rows(runs) == rows([alone["letters"]])
    assert {row["index"] // 4 for row in rows(runs[:1]).values()} == {0}
    rounds = [
        [max(r["attempt"] for r in rows([run]).values() if r["step"] == step) for run in runs] for step in range(4)
    ]
    assert any(a != b for a, b in rounds)  # one has all its rows and waits for the other
    for run in runs:
        assert losses(run) == pytest.approx(losses(alone["letters"]), abs=1e-4)
        assert figures(run) == figures(alone["letters"])
    assert figures(alone["letters"])["online/stage"][0] == 1 < figures(alone["letters"])["online/stage"][-1]

    # Distillation too, and a process without rows lets the base read something, as all of them have to.
    taught = [json.loads((tmp_path / f"told/run-{rank}.json").read_text()) for rank in range(2)]
    assert rows(taught) == rows([alone["told"]])
    assert losses(taught[0]) == losses(taught[1]) == pytest.approx(losses(alone["told"]), abs=1e-4)
    assert any("distillation/kl" in line for line in taught[0]["log"])

    # If all rows of a process are rejected in a step, the other doesn't hang, and a step without rows still counts.
    ends = [json.loads((tmp_path / f"scarce/run-{rank}.json").read_text()) for rank in range(2)]
    drafts = rows(ends).values()
    with_rows = [{r["index"] // 4 for r in drafts if r["step"] == step and r["input_ids"]} for step in range(3)]
    assert any(len(processes) == 1 for processes in with_rows)
    assert len(losses(ends[0])) == 3
    assert losses(ends[0]) == losses(ends[1])
    assert [loss > 0 for loss in losses(ends[0])] == [bool(processes) for processes in with_rows]

    # A resumed run ends the same.
    if shape == "cpu_2proc":
        resumed = [json.loads((tmp_path / f"both/run-{rank}-resumed.json").read_text()) for rank in range(2)]
        assert rows(resumed) == rows(runs)
        assert losses(resumed[0]) == losses(runs[0])
        assert figures(resumed[0]) == figures(runs[0])
