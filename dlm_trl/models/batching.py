"""Batches for rows of different lengths: sorted by length, limited by tokens, halved when out of memory; and the error
for memory that runs out all the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import PreTrainedModel

from dlm_trl.notes.errors import OutOfMemoryError

T = TypeVar("T")
LOGITS_AT_ONCE = 2**24  # 64 MiB in float32; a large vocabulary gets smaller batches
SMALLER = "Shorten the text, or use a smaller or a quantised model."  # when a single text is too much
FEWER = "Lower per_device_train_batch_size, or use a smaller model."


def by_token_budget(lengths: Sequence[float], budget: int) -> Iterator[list[int]]:
    """Batches of indices into `lengths`, with rows × longest length ≤ `budget` tokens.

    A row longer than the budget gets its own batch. The longest come first, so that an out-of-memory error shows early.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def in_batches(
    run: Callable[[list[int]], Sequence[T]],
    lengths: Sequence[int],
    budget: int,
    halve: bool = True,
    costs: Sequence[float] | None = None,
) -> Iterator[list[tuple[int, T]]]:
    """Calls `run` for each batch of indices, and yields the batch's (index, result) pairs.

    run: returns one result per index. A batch that runs out of memory is halved and run again. halve: False if other
    processes have to make the same forward passes, and would wait for more. costs: what the budget limits, if not the
    lengths. Raises DlmError (OutOfMemoryError) for a single row, or a batch that can't be halved.
    """
    pending = list(by_token_budget(lengths if costs is None else costs, budget))[::-1]
    while pending:
        batch = pending.pop()
        try:
            results = run(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not halve:
                doing = f"for {len(batch)} texts of up to {max(lengths[i] for i in batch):,} tokens"
                raise _out_of_memory(error, doing, FEWER) from error
            if len(batch) == 1:
                raise _out_of_memory(error, f"for a single text of {lengths[batch[0]]:,} tokens", SMALLER) from error
        else:
            yield list(zip(batch, results, strict=True))
            continue
        # Outside the except clause: the traceback would keep the failed batch's tensors alive.
        clear_device_cache(garbage_collection=True)
        half = (len(batch) + 1) // 2
        pending += [batch[half:], batch[:half]]


def run_in_batches(
    run: Callable[[list[int]], Sequence[T]], lengths: Sequence[int], budget: int, halve: bool = True
) -> list[T]:
    """All results of `in_batches`, in the order of `lengths`."""
    results = dict(chain.from_iterable(in_batches(run, lengths, budget, halve)))
    return [results[index] for index in range(len(lengths))]


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is the error of a GPU, or of torch's allocator on a CPU, without enough memory."""
    return isinstance(error, torch.OutOfMemoryError) or bool(should_reduce_batch_size(error))


@contextmanager
def memory_errors(doing: str, hint: str) -> Iterator[None]:
    """Raise a DlmError (OutOfMemoryError) if torch can't get memory, on a GPU or the CPU; other errors pass.

    On a CPU, the kernel may also kill the process, without an error here.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(error, doing, hint) from error


def _out_of_memory(error: RuntimeError, doing: str, hint: str) -> OutOfMemoryError:
    why = " ".join(str(error).split())[:200].rstrip(".")
    return OutOfMemoryError(f"Out of memory {doing}: {why}.", hint=hint)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Puts the model in eval mode: no dropout, and a KV cache despite gradient checkpointing. Restores the mode."""
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def contiguous_hidden(model: PreTrainedModel) -> Iterator[None]:
    """Makes the hidden states contiguous before they reach the head.

    `logits_to_keep` slices them, and torch multiplies a slice row by row, copying the head's weights for each row: for
    32 rows and a vocabulary of 49,152 that took longer than all layers together.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        hook.remove()
