"""How prompts of any lengths go through a model: sorted, in batches of bounded size, halved when memory ends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import PreTrainedModel

T = TypeVar("T")


def by_token_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices into `lengths` in batches, longest first; rows × longest length stays within `budget` tokens.

    A row longer than the budget is a batch of its own. Longest first, so that memory runs out early if at all.
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
    run: Callable[[list[int]], Sequence[T]], lengths: Sequence[int], budget: int
) -> Iterator[list[tuple[int, T]]]:
    """`run` on every batch of indices; after each, its (index, result) pairs. `run` gives one result per index.

    A batch that runs out of memory is halved and run again; a single row that does so raises what `run` raised.
    """
    waiting = list(by_token_budget(lengths, budget))[::-1]
    while waiting:
        batch = waiting.pop()
        try:
            done = run(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not should_reduce_batch_size(error):
                raise
        else:
            yield list(zip(batch, done, strict=True))
            continue
        # Outside the except clause: the traceback would keep the failed batch's tensors alive.
        clear_device_cache(garbage_collection=True)
        half = (len(batch) + 1) // 2
        waiting += [batch[half:], batch[:half]]


def run_in_batches(run: Callable[[list[int]], Sequence[T]], lengths: Sequence[int], budget: int) -> list[T]:
    """The results of `in_batches`, all together and in the order of `lengths`."""
    results = dict(chain.from_iterable(in_batches(run, lengths, budget)))
    return [results[index] for index in range(len(lengths))]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """No dropout inside, and a KV cache although gradient checkpointing is on; the mode comes back afterwards."""
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def contiguous_hidden(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the head gets its hidden states in one piece.

    Logits of some positions alone are those of a slice, which torch multiplies row by row, with a copy of the head's
    weights for each: for 32 rows and a vocabulary of 49,152 that took longer than all layers together.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        hook.remove()
