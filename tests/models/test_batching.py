"""Batches: complete, in order, bounded, and halved when out of memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.models.batching import by_token_budget, memory_errors, run_in_batches
from dlm_trl.notes.errors import OutOfMemoryError

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


@given(LENGTHS, st.integers(1, 200))
def test_batches_contain_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(by_token_budget(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@settings(max_examples=20)  # every out-of-memory error triggers garbage collection, which is slow
@given(LENGTHS, st.integers(4, 30))
def test_results_are_in_order_when_out_of_memory(lengths: list[int], room: int) -> None:
    def run(batch: list[int]) -> list[int]:
        if len(batch) > room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return [10 * i for i in batch]

    assert run_in_batches(run, lengths, budget=200) == [10 * i for i in range(len(lengths))]


def test_other_errors_and_a_row_that_never_fits_raise() -> None:
    calls = []

    def run(batch: list[int]) -> list[int]:
        calls.append(batch)
        raise RuntimeError(message)

    for message, count, raised in (
        ("shapes do not match", 1, RuntimeError),
        ("DefaultCPUAllocator: can't allocate memory", 3, OutOfMemoryError),
    ):
        calls.clear()
        with pytest.raises(raised, match=message):
            run_in_batches(run, [1, 1, 1, 1], budget=100)
        assert len(calls) == count


def test_a_batch_that_other_processes_wait_for_is_not_halved() -> None:
    calls = []

    def run(batch: list[int]) -> list[int]:
        calls.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(
        OutOfMemoryError, match=r"^Out of memory for 2 texts of up to 7 tokens: CUDA out of memory\. Lower "
    ):
        run_in_batches(run, [3, 7], budget=100, halve=False)
    assert calls == [[1, 0]]


def test_memory_that_runs_out_is_one_line_that_says_what_to_do() -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"Out of memory in this test: .*can't allocate memory") as caught,
        memory_errors("in this test", "Do less."),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    assert str(caught.value).endswith(". Do less.") and "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("in this test", "Do less."):
        raise RuntimeError("shapes do not match")
