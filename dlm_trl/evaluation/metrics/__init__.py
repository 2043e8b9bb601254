"""The numbers of this room as modules for the library `evaluate`, which takes them by path, without a network:

    evaluate.load(metrics.path("mcsb")).compute(predictions=[["cup", "cup", "dog"]], references=["cup"])

There are `squad_answers`, `inventions`, `open_book_share`, `mcsb`, `cloze` and `perplexity`. Each is a thin shell
around the function that does the work.
"""

from __future__ import annotations

from pathlib import Path


def path(name: str) -> str:
    """The folder of a metric, as `evaluate.load` takes it."""
    return str(Path(__file__).parent / name)
