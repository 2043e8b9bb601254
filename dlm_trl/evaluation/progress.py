"""A line on stderr that shows that something long is going on, and how far it is.

    with progress("answering questions", total=54) as advance:
        answer_recall(model, tokenizer, questions, advance)

Its spinner and its clock move while a batch is computed. In a pipe, the line is printed once, at the end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn


@contextmanager
def progress(label: str, total: float, show: bool = True) -> Iterator[Callable[[float], None]]:
    """Gives a function that takes how much more of the total is done. show False: no line."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task(label, total=total)
        yield lambda more: bar.advance(task, more)
