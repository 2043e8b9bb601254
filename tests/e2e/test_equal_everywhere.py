"""The recipe on two processes equals one process, with DDP, ZeRO-2 and ZeRO-3; and a process that fails ends the run.

`python -m tests.e2e.equal` prints how far they differ.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict

from dlm_trl.models.load import load_config
from dlm_trl.train.adapter import adapt, peft_config
from dlm_trl.train.arguments import AdapterArguments
from tests.e2e.equal import ROOT, RUNS, SAVE_STEPS, SHAPES, STEPS, Ended, adapter_difference, loss_difference, run

pytestmark = pytest.mark.heavy
LOSS, ADAPTER = 1e-4, 1e-3  # at most; the adapter's difference is a share of its norm
PAIR = "\n::instruction::\n### Q\nWho bakes the bread of day {n}?\n### A\n{early}the baker of day {n}.\n"
HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n---\nKneading is folding a dough.\n"

Alone = Callable[[str], Ended]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """alone(settings) is the run of one process with these settings."""
    runs: dict[str, Ended] = {}

    def alone(settings: str) -> Ended:
        if settings not in runs:
            runs[settings] = run(tmp_path_factory.mktemp("alone"), settings.split())
        return runs[settings]

    return alone


def check_equal(one: Ended, two: Ended, shape: str) -> None:
    assert two.code == 0, two.printed[-5000:]
    assert f"world size: {SHAPES[shape]}" in two.printed
    assert loss_difference(one, two) < LOSS
    assert adapter_difference(one, two) < ADAPTER


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(alone: Alone, tmp_path: Path, name: str, shape: str) -> None:
    one, two = alone(RUNS[name]), run(tmp_path, RUNS[name].split(), shape)
    check_equal(one, two, shape)

    # The adapter is whole: PEFT's own shapes for this base, everything finite, everything trained.
    adapted = adapt(load_config("tiny"), peft_config(AdapterArguments(lora_r=8)))
    trained = two.adapter()
    assert {name: tensor.shape for name, tensor in trained.items()} == {
        name: tensor.shape for name, tensor in get_peft_model_state_dict(adapted).items()
    }
    assert all(tensor.isfinite().all() for tensor in trained.values())
    assert all(tensor.any() for name, tensor in trained.items() if "lora_B" in name)

    if name == "mcsb":  # what was measured on the way is the same; resumed in the middle, it ends the same
        measured = [[line for line in ended.history() if "eval_perplexity" in line] for ended in (one, two)]
        assert len(measured[0]) == 2 and measured[0] == [pytest.approx(line, rel=1e-4) for line in measured[1]]
        shutil.rmtree(two.out / f"checkpoint-{STEPS}")
        again = run(tmp_path, [*RUNS[name].split(), "--resume_from_checkpoint", "true"], shape)
        assert f"resumes from {two.out}/checkpoint-{SAVE_STEPS}" in again.printed
        check_equal(one, again, shape)
        assert all(torch.equal(tensor, trained[name]) for name, tensor in again.adapter().items())


@pytest.mark.parametrize(
    ("adapter", "shape", "apart"),
    [
        *(("--adapter dora", shape, LOSS) for shape in SHAPES),
        ("--adapter adalora", "cpu_2proc", LOSS),
        # TRL trains adapters of a quantized base in bfloat16.
        *(("--adapter qlora", shape, 1e-2) for shape in ("cpu_2proc", "deepspeed_zero2_cpu")),
    ],
)
def test_other_adapters(alone: Alone, tmp_path: Path, adapter: str, shape: str, apart: float) -> None:
    settings = f"{RUNS['notes']} {adapter}"
    one, two = alone(settings), run(tmp_path, settings.split(), shape)
    assert loss_difference(one, two) < apart
    assert adapter_difference(one, two) < apart


@pytest.mark.parametrize("rows", [21, 17])
def test_uneven_rows_with_ddp(tmp_path: Path, rows: int) -> None:
    """16 rows per step: the second step of an epoch has 5, or a single one for both processes."""
    notes = tmp_path / "notes.dlm"
    pairs = [PAIR.format(n=n, early="Early, " * (n % 6)) for n in range(rows - 1)]  # and a row of prose
    notes.write_text(HEAD + "".join(pairs))
    settings = ["--notes", str(notes), "--validation_fraction", "0"]
    one, two = run(tmp_path / "one", settings), run(tmp_path / "two", settings, "cpu_2proc")
    assert f"{rows - 1} rows" in one.printed
    check_equal(one, two, "cpu_2proc")


@pytest.mark.parametrize("memory", ["", "little-memory,"])
def test_zero3_gathers_the_weights_once_a_step_to_generate(alone: Alone, tmp_path: Path, memory: str) -> None:
    shape = "deepspeed_zero3_cpu"
    two = run(tmp_path, RUNS["mcsb"].split(), shape, f"tests/e2e/worker.py {memory}count")
    check_equal(alone(RUNS["mcsb"]), two, shape)
    assert ("don't fit into the free memory" in two.printed) == bool(memory)
    for rank in range(2):
        steps = json.loads((two.out / f"gathers-{rank}.json").read_text())
        assert len(steps) == STEPS and all(step["passes"] > 10 for step in steps)
        for step in steps:
            if memory:
                assert step["gathers"] == 0 and step["collectives"] > step["passes"]
            else:
                assert step["gathers"] == 1 and step["collectives"] == 0


@pytest.mark.parametrize("shape", ["cpu_2proc", "deepspeed_zero3_cpu"])
def test_a_rank_whose_rows_are_all_rejected(alone: Alone, tmp_path: Path, shape: str) -> None:
    task = ROOT / "tests" / "tasks" / "letters.py"
    settings = f"""--task {task}:Letters --stages [{{"rejecting":"most"}}] --per_device_train_batch_size 1"""
    one, two = alone(settings), run(tmp_path, settings.split(), shape)
    check_equal(one, two, shape)
    trained = [
        {row["step"] for row in map(json.loads, file.read_text().splitlines()) if row["input_ids"]}
        for file in (two.out / f"online_rows-{rank}.jsonl" for rank in range(2))
    ]
    assert trained[0] != trained[1]


BREAKING = """
import os
from tests.tasks.letters import Letters


class Breaking(Letters):
    calls = 0

    def examples(self, items, generated):
        Breaking.calls += 1
        if os.environ.get("RANK") == "1" and Breaking.calls > 2:
            raise ZeroDivisionError("of the task")
        return super().examples(items, generated)
"""


@pytest.mark.parametrize(
    ("shape", "memory"), [("cpu_2proc", ""), ("deepspeed_zero3_cpu", ""), ("deepspeed_zero3_cpu", "little-memory,")]
)
def test_a_rank_that_runs_out_of_memory_ends_the_run(tmp_path: Path, shape: str, memory: str) -> None:
    """It ends within seconds of the error; a run that hangs would reach `run`'s limit of ten minutes."""
    ended = run(tmp_path, RUNS["mcsb"].split(), shape, f"tests/e2e/worker.py {memory}out-of-memory")
    assert ended.code != 0
    (line,) = (line for line in ended.printed.splitlines() if "Out of memory" in line)
    assert line.startswith("[rank 1] Out of memory for ")
    assert "CUDA out of memory. Tried to allocate 2.00 GiB." in line
    assert "use a smaller" in line
    assert "[rank 0] Another process of the run has ended" in ended.printed
    assert not any(f"[rank {rank}] Traceback" in ended.printed for rank in range(2))


@pytest.mark.parametrize("shape", ["cpu_2proc", "deepspeed_zero3_cpu"])
def test_a_rank_whose_task_fails_ends_the_run(tmp_path: Path, shape: str) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING)
    ended = run(tmp_path, ["--task", f"{tmp_path / 'breaking.py'}:Breaking"], shape)
    assert ended.code != 0
    assert "[rank 1] ZeroDivisionError: of the task" in ended.printed
    assert "[rank 0] Another process of the run has ended" in ended.printed
    assert "[rank 0] Traceback" not in ended.printed
