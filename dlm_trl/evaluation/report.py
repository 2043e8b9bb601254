"""What a run did, written down: `report.json` for programs, `report.md` for people, `report.png` for a glance.

    report = Report(
        run={"document": "recipes/notes.dlm", "base": "tiny"},
        measures=[Measure("exact match, seen", "share", before=0.0, after=0.95, open_book=0.2)],
        samples=[Sample("seen", "What is kneading?", "Pressing dough.", before="…", after="Pressing dough.")],
        history=trainer.state.log_history,
    )
    write("runs/notes", report)

Measures whose unit is "share" are bars in the picture (but for `NOT_DRAWN`); the curves are drawn from the trainer's
own log.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

BARS = {"before": "#9aa5b1", "open_book": "#d29922", "after": "#1f6feb"}
NOT_DRAWN = ("fuzzy match",)  # in the table; beside exact match and F1, a third bar for the same answers says little
OPEN_BOOK = (
    "open book: the base before training, with the notes in its prompt. Notes that are too long for it are cut to the "
    "paragraphs that share most words with the question."
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number before and after the run; None where it could not be measured (no validation rows, say).

    `unit`: "share" (0 to 1), or what the number counts, such as "nats per token". `open_book`: what the base reaches
    before training with the notes in its prompt, None for what has nothing to do with that.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    open_book: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with the answer of the notes and what the model said before and after the run.

    `open_book`: what it said before with the notes in its prompt, None where it was not asked so.
    """

    group: str
    question: str
    answer: str
    before: str
    after: str
    open_book: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All that `write` puts down.

    `run`: facts of the run in the order in which they are shown, names to values that JSON can hold. `history`: the
    trainer's `state.log_history`, dicts with "step" and any of "loss", "learning_rate", "eval_loss" and what online
    synthesis and `MeasureDuring` log. `rows`: some rows that a task wrote, prompt and target each.
    """

    run: Mapping[str, Any]
    measures: Sequence[Measure]
    samples: Sequence[Sample] = ()
    history: Sequence[Mapping[str, Any]] = field(default=())
    rows: Sequence[tuple[str, str]] = ()


def write(output_dir: str | os.PathLike[str], report: Report) -> Path:
    """Write the three files into `output_dir` (made where it is missing); returns the path of `report.md`."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(asdict(report)), ensure_ascii=False, indent=2, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    FigureCanvasAgg(figure := draw(report))
    figure.savefig(folder / "report.png", dpi=120)
    return folder / "report.md"


def markdown(report: Report) -> str:
    """The report as Markdown: facts, numbers before and after, the picture, answers side by side."""
    facts = "\n".join(f"- {name}: {_cell(value)}" for name, value in report.run.items())
    parts = ["# What the run did", facts, measures_table(report.measures), "![loss, learning rate, recall](report.png)"]
    if report.samples:
        parts += ["## Answers side by side", _samples_table(report.samples)]
    if report.rows:
        parts += ["## Rows of the last step", markdown_table(("prompt", "target"), report.rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def measures_table(measures: Sequence[Measure]) -> str:
    """The numbers before and after as a Markdown table, lined up so that it reads well in a terminal too.

    With an open book in any of them, there is a column for it, and a line that says what it is.
    """
    shown = [column for column in BARS if column != "open_book" or _with_open_book(measures)]
    rows = [(f"{m.name} ({m.unit})", *(_number(getattr(m, column), m.unit) for column in shown)) for m in measures]
    table = markdown_table(("", *map(_label, shown)), rows, numbers_from=1)
    return f"{table}\n\n{OPEN_BOOK}" if "open_book" in shown else table


def _samples_table(samples: Sequence[Sample]) -> str:
    columns = ["group", "question", "answer", *(c for c in BARS if c != "open_book" or _with_open_book(samples))]
    rows = [["–" if (text := getattr(s, column)) is None else text for column in columns] for s in samples]
    return markdown_table(("", "question", "notes", *map(_label, columns[3:])), rows)


def _with_open_book(items: Sequence[Measure] | Sequence[Sample]) -> bool:
    return any(item.open_book is not None for item in items)


def _label(column: str) -> str:
    return column.replace("_", " ")


def draw(report: Report) -> Figure:
    """Three panels: loss (training and validation), learning rate or a task's accuracy over the steps, the shares
    before and after, and with an open book.
    """
    drawn = [m for m in report.measures if m.unit == "share" and not m.name.startswith(NOT_DRAWN)]
    figure = Figure(figsize=(13, max(4, 1.5 + 0.5 * len(drawn))), layout="constrained")
    loss, middle, shares = figure.subplots(1, 3, width_ratios=(1, 1.2 if _has_task(report.history) else 1, 1.3))
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o--")):
        _curve(loss, report.history, key, label, style)
    loss.set(title="Loss", xlabel="step", ylabel="nats per token")
    loss.set_ylim(bottom=0)
    if loss.lines:
        loss.legend(frameon=False)
    if _has_task(report.history):
        _accuracy(middle, report.history)
    else:
        _curve(middle, report.history, "learning_rate", "learning rate", "-")
        middle.set(title="Learning rate", xlabel="step")
        middle.set_ylim(bottom=0)
    _bars(shares, drawn)
    for axes in (loss, middle, shares):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _has_task(history: Sequence[Mapping[str, Any]]) -> bool:
    return any(name == "online/accuracy" or name.startswith("eval_mcsb/") for line in history for name in line)


def _accuracy(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy on the rows of training, on each condition, and of guessing; on a second axis what is forgotten."""
    axes.set(title="Accuracy", xlabel="step", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _curve(axes, history, "online/accuracy", "rows of training", "-")
    for name in dict.fromkeys(name for line in history for name in line):
        if name.startswith("eval_mcsb/") and name.endswith("/accuracy"):
            _curve(axes, history, name, name.split("/")[1], "o-")
    _curve(axes, history, "online/chance", "chance", "k:")
    if any("eval_perplexity" in line for line in history):
        second = axes.twinx()
        _curve(second, history, "eval_perplexity", "perplexity, general text", "--", color="#888888")
        second.set(ylabel="perplexity, general text")
        # From nothing to twice what it was: a few per cent look like a few per cent. A run that diverged has none.
        if finite := [value for value in second.lines[0].get_ydata() if math.isfinite(value)]:
            second.set_ylim(0, max(2 * finite[0], 1.05 * max(finite)))
        second.spines[["top"]].set_visible(False)
    lines = [line for each in axes.figure.axes if each.bbox.bounds == axes.bbox.bounds for line in each.lines]
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 3, "fontsize": 8}
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, **below)


def _curve(axes: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str, style: str, **more: Any) -> None:
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    if points:
        axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.5, markersize=4, **more)


def _bars(axes: Axes, measures: Sequence[Measure]) -> None:
    axes.set_title("Before and after")
    axes.set_xlim(0, 1.12)  # room for the label of a full bar
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    if not measures:
        return
    shown = [column for column in BARS if column != "open_book" or _with_open_book(measures)]
    height = 0.8 / len(shown)
    for number, column in enumerate(shown):
        # No bar, and no number, where a measure has nothing to do with an open book.
        having = [(row, m) for row, m in enumerate(measures) if column != "open_book" or m.open_book is not None]
        values = [getattr(measure, column) for _, measure in having]
        rows = [row + (number - (len(shown) - 1) / 2) * height for row, _ in having]
        colour = BARS[column]
        bars = axes.barh(rows, [value or 0.0 for value in values], 0.95 * height, color=colour, label=_label(column))
        axes.bar_label(bars, [_number(value, "share") for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(measures)), [measure.name for measure in measures])
    axes.invert_yaxis()  # the first measure on top, as in the table
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(shown))


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if unit == "share" else f"{value:,.3f}"


def _cell(value: object) -> str:
    """One line of Markdown: a pipe would end the cell and a line break the row."""
    return " ".join(str(value).split()).replace("|", "\\|")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> str:
    """A table in Markdown whose columns are as wide as they have to be; those from a number on are set to the right."""
    cells = [[_cell(value) for value in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    right = [numbers_from is not None and column >= numbers_from for column in range(len(head))]
    lines = [
        "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _finite(value: Any) -> Any:
    """The same value with null for NaN and infinity, which JSON cannot hold and a run that diverged contains."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
