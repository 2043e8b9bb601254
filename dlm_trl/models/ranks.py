"""Split work over the processes of `accelerate launch`: `results = map_over_ranks(items, work)`.

With one process it is `work(items)`, and nothing is loaded or set up.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import TypeVar

from dlm_trl.notes import DlmError

Item = TypeVar("Item")
Result = TypeVar("Result")

# How long a process that is done waits for the slowest: as long as that takes. One that dies is noticed at once.
_PATIENCE = timedelta(days=30)


def is_main() -> bool:
    """Whether this process is the one that prints and writes: the first one, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def map_over_ranks(items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]]) -> list[Result]:
    """All results of all items, in their order, in every process, while each process does the work for its part.

    work takes a list of items, which is empty where there are fewer items than processes, and gives as many results,
    which pickle can carry. All processes have to call this with the same items. A DlmError of one is raised in all.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return list(work(list(items)))
    from torch import distributed

    _join()
    # A group of its own, since the default one does not wait longer than minutes. Rank and count are those of torch:
    # without a GPU, accelerate's state believes that it is alone.
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    rank, count = distributed.get_rank(), distributed.get_world_size()
    done: Sequence[Result] | DlmError
    try:
        done = list(work(list(items[rank::count])))  # every n-th: neighbours are often of one length
    except DlmError as error:
        done = error
    parts: list[Sequence[Result] | DlmError] = [[] for _ in range(count)]
    distributed.all_gather_object(parts, done, group=group)
    distributed.destroy_process_group(group)
    for part in parts:
        if isinstance(part, DlmError):
            raise part
    return [parts[i % count][i // count] for i in range(len(items))]


@cache
def _join() -> None:
    """Join the processes, where nobody did so before, and part at the end.

    The threads of a group that is left standing can abort the process when the interpreter ends.
    """
    from accelerate import PartialState

    atexit.register(PartialState().destroy_process_group)
