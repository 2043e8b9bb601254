"""The numbers and answers of a report, as `report`, `picture` and `advice` read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = ("before", "open_book", "after")
LOWER_IS_BETTER = ("inventions",)  # how the names of such shares begin


@dataclass(frozen=True, slots=True)
class Measure:
    """One number before and after the run; None if it couldn't be measured (for example, without validation rows).

    unit: "share" (0 to 1), "ratio" (shown in percent too, may exceed 1), or another unit such as "nats per token".
    open_book: the base model's number with the notes in its prompt, None for measures that don't depend on the notes.
    low, high: the 95 % interval of `after`. group, questions: which questions it's about, and how many. note: what to
    know when reading it, one or two sentences.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    open_book: float | None = None
    low: float | None = None
    high: float | None = None
    group: str | None = None
    questions: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its expected answer, and the model's answers before and after the run.

    open_book: the base model's answer with the notes in its prompt, None if that wasn't measured.
    """

    group: str
    question: str
    answer: str
    before: str
    after: str
    open_book: str | None = None


def shown_columns(items: Sequence[Measure] | Sequence[Sample]) -> list[str]:
    """The columns to show: the open book only if some item has it."""
    return [column for column in COLUMNS if column != "open_book" or any(i.open_book is not None for i in items)]


def label(column: str) -> str:
    """The name of a column for people."""
    return column.replace("_", " ")


def number(value: float | None, unit: str) -> str:
    """A number for people: shares and ratios in percent, a dash for None."""
    if value is None:
        return "–"
    return f"{value:.1%}" if unit in ("share", "ratio") else f"{value:,.3f}"
