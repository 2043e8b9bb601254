"""Split work over the processes of `accelerate launch`: `results = map_over_ranks(items, work)`.

In a single process this is just `work(items)`, without setting up torch.distributed.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TypeVar

from dlm_trl.notes.errors import DlmError, ProcessError

Item = TypeVar("Item")
Result = TypeVar("Result")

# How long to wait for the slowest process. A process that dies is noticed at once.
_TIMEOUT = timedelta(days=30)


def is_main() -> bool:
    """Whether this is the process that prints and writes: rank 0."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_lost_process(error: Exception) -> bool:
    """Whether this error means that another process has ended, or that the connection to it is lost."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextmanager
def process_errors(hint: str) -> Iterator[None]:
    """Raise a DlmError (ProcessError) if another process has ended while this one exchanges data with it."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ProcessError(f"Another process of the run has ended ({reason}).", hint) from error


def map_over_ranks(items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]]) -> list[Result]:
    """The result of each item, in order and in every process; each process works on its share of the items.

    work: takes a list of items, empty if there are fewer items than processes, and returns one picklable result per
    item. All processes must call this with the same items. A DlmError in one is raised in all.
    """
    if world_size() == 1:
        return list(work(list(items)))
    from torch import distributed

    _join()
    # A separate group, for its timeout. Rank and count come from torch, since without a GPU accelerate's state may
    # report a single process.
    group = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    rank, count = distributed.get_rank(), distributed.get_world_size()
    own: Sequence[Result] | DlmError
    try:
        own = list(work(list(items[rank::count])))  # strided, since neighbours often have similar lengths
    except DlmError as error:
        own = error
    parts: list[Sequence[Result] | DlmError] = [[] for _ in range(count)]
    with process_errors("Its own error says why. Finished work is kept: run the same command again."):
        distributed.all_gather_object(parts, own, group=group)
    distributed.destroy_process_group(group)
    for part in parts:
        if isinstance(part, DlmError):
            raise part
    return [parts[i % count][i // count] for i in range(len(items))]


@cache
def _join() -> None:
    """Initialize torch.distributed if necessary, and destroy the process group at exit.

    The threads of a group that is never destroyed can abort the process at exit.
    """
    from accelerate import PartialState

    atexit.register(PartialState().destroy_process_group)
