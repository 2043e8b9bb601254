"""A progress bar on stderr.

    with progress("answering questions", total=54) as advance:
        answer_recall(model, tokenizer, questions, advance)

Its spinner and clock keep moving while a batch runs. In a pipe, the line is printed once at the end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from dlm_trl.notes.terminal import console


@contextmanager
def progress(label: str, total: float, show: bool = True) -> Iterator[Callable[[float], None]]:
    """Yields a function to call with the amount of work just finished. show: False hides the bar."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console(stderr=True), disable=not show) as bar:
        task = bar.add_task(label, total=total)
        yield lambda more: bar.advance(task, more)
