"""Batches: complete, in order, bounded, and halved when out of memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.models.batching import by_token_budget, run_in_batches

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

    for message, count in (("shapes do not match", 1), ("DefaultCPUAllocator: can't allocate memory", 3)):
        calls.clear()
        with pytest.raises(RuntimeError, match=message):
            run_in_batches(run, [1, 1, 1, 1], budget=100)
        assert len(calls) == count


def test_a_batch_that_other_processes_wait_for_is_not_halved() -> None:
    calls = []

    def run(batch: list[int]) -> list[int]:
        calls.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        run_in_batches(run, [3, 7], budget=100, halve=False)
    assert calls == [[1, 0]]
    assert caught.value.__notes__ == ["That was a batch of 2, with up to 7 tokens in a row."]
