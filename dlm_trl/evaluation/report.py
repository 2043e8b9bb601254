"""The report of a run: `report.json` for programs, `report.html` and `report.md` for people, `report.png` for a quick
look.

    report = Report(
        run={"document": "recipes/notes.dlm", "base": "tiny"},
        measures=[Measure("F1, seen", "share", before=0.0, after=0.95, open_book=0.2, group="seen", questions=40)],
        samples=[Sample("seen", "What is kneading?", "Pressing dough.", before="…", after="Pressing dough.")],
        history=trainer.state.log_history,
    )
    write("runs/notes", report)

A person reads `summary` first; the picture is drawn by `picture`, the page written by `page`.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg

from dlm_trl.evaluation.advice import MISSED, Missed
from dlm_trl.evaluation.content import BY_GROUP, OPEN_BOOK, Report, besides_groups, in_groups, meanings, score_of
from dlm_trl.evaluation.numbers import LOWER_IS_BETTER, Measure, Sample, label, number, shown_columns
from dlm_trl.evaluation.page import page
from dlm_trl.evaluation.picture import draw
from dlm_trl.notes.escape import markdown as escaped
from dlm_trl.notes.files import replace_file

SHOWN_MISSED = 10  # rows of each group in report.md


def write(output_dir: str | os.PathLike[str], report: Report) -> Path:
    """Write the four files to `output_dir`, which is created if needed; returns the path of `report.md`.

    Each file is replaced as a whole. Raises DlmError (DlmWriteError) if one can't be written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(asdict(report)), ensure_ascii=False, indent=2, allow_nan=False)
    replace_file(folder / "report.json", f"{text}\n".encode())
    FigureCanvasAgg(figure := draw(report.history, report.measures))
    figure.savefig(picture := BytesIO(), dpi=120)
    replace_file(folder / "report.png", picture.getvalue())
    replace_file(folder / "report.html", page(report).encode())
    replace_file(folder / "report.md", markdown(report).encode())
    return folder / "report.md"


def markdown(report: Report) -> str:
    """The report as Markdown: facts, numbers before and after, advice, the picture, missed facts, sample answers."""
    facts = "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in report.run.items())
    parts = ["# Training report", facts, summary(report), "![loss, learning rate, answers](report.png)"]
    if report.missed:
        parts += ["## Missed", _missed_table(report.missed)]
    if report.samples:
        parts += ["## Sample answers", _samples_table(report.samples)]
    if report.rows:
        parts += ["## Rows of the last step", markdown_table(("prompt", "target"), report.rows)]
    if any(measure.group for measure in report.measures):
        parts += ["## All numbers", measures_table(report.measures)]
    return "\n\n".join(filter(None, parts)) + "\n"


def summary(report: Report) -> str:
    """What to read first: the scores by group of questions, the other numbers, what they mean, and the advice."""
    grouped = in_groups(report.measures)
    if not grouped:
        return "\n\n".join([measures_table(report.measures), *_advice(report.advice)])
    notes = meanings(report.measures, "open_book" in shown_columns(report.measures))
    others = _table(besides_groups(report.measures))
    return "\n\n".join([groups_table(grouped), others, *_list(notes), *_advice(report.advice)])


def groups_table(measures: Sequence[Measure]) -> str:
    """A Markdown table with a row for each group of questions. measures: those whose score is in BY_GROUP."""
    shown = shown_columns(measures)
    scores = [score for score in BY_GROUP if any(score_of(m) == score for m in measures)]
    head = ["", "questions", *(f"{BY_GROUP[score][0]} {label(column)}" for score in scores for column in shown)]
    rows = []
    for group in dict.fromkeys(measure.group for measure in measures):
        of_group = {score_of(m): m for m in measures if m.group == group}
        asked = next(iter(of_group.values())).questions
        cells = [getattr(of_group.get(score), column, None) for score in scores for column in shown]
        rows.append([str(group), "–" if asked is None else str(asked), *(number(cell, "share") for cell in cells)])
    return markdown_table(head, rows, numbers_from=1)


def measures_table(measures: Sequence[Measure]) -> str:
    """All numbers before and after as a Markdown table, aligned so that it's readable in a terminal too.

    Adds columns for open book and intervals if a measure has them, and a line that explains the open book.
    """
    explained = "open_book" in shown_columns(measures)
    return f"{_table(measures)}\n\n{OPEN_BOOK}" if explained else _table(measures)


def _table(measures: Sequence[Measure]) -> str:
    shown = shown_columns(measures)
    with_interval = any(measure.low is not None for measure in measures)
    rows = [
        (
            f"{m.name} ({m.unit}{', lower is better' if m.name.startswith(LOWER_IS_BETTER) else ''})",
            *(number(getattr(m, column), m.unit) for column in shown),
            *([_interval(m)] if with_interval else []),
        )
        for m in measures
    ]
    head = ("", *map(label, shown), *(["95 % of after"] if with_interval else []))
    return markdown_table(head, rows, numbers_from=1)


def _interval(measure: Measure) -> str:
    if measure.low is None or measure.high is None:
        return "–"
    return f"{number(measure.low, measure.unit)} to {number(measure.high, measure.unit)}"


def _list(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {escaped(line)}" for line in lines)] if lines else []


def _advice(advice: Sequence[str]) -> list[str]:
    return ["## What to do next", *_list(advice)] if advice else []


def _missed_table(missed: Sequence[Missed]) -> str:
    """A table of the first missed questions of each group, and how many there are."""
    groups: dict[str, list[Missed]] = {}
    for one in missed:
        groups.setdefault(one.group, []).append(one)
    counts = ", ".join(f"{len(every)} {group}" for group, every in groups.items())
    more = any(len(every) > SHOWN_MISSED for every in groups.values())
    where = f" The first {SHOWN_MISSED} of each group; report.json has all." if more else ""
    rows = [
        (one.group, one.question, one.answer, one.said, _place(one))
        for every in groups.values()
        for one in every[:SHOWN_MISSED]
    ]
    intro = f"Answers with a token F1 below {MISSED}: {counts}.{where}"
    return f"{escaped(intro)}\n\n{markdown_table(('', 'question', 'expected', 'answered', 'line'), rows)}"


def _place(one: Missed) -> str:
    return "–" if one.file is None else f"{Path(one.file).name}:{one.line}"


def _samples_table(samples: Sequence[Sample]) -> str:
    shown = shown_columns(samples)
    columns = ["group", "question", "answer", *shown]
    rows = [["–" if (text := getattr(s, column)) is None else text for column in columns] for s in samples]
    return markdown_table(("", "question", "notes", *map(label, shown)), rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> str:
    """A Markdown table of these texts, with padded columns; numbers_from: the first column to align to the right."""
    cells = [[escaped(value) for value in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    right = [numbers_from is not None and column >= numbers_from for column in range(len(head))]
    lines = [
        "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _finite(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON doesn't allow; a diverged run has them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
