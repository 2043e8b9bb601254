"""The report of a run: `report.json` for programs, `report.md` for people, `report.png` for a quick look.

    report = Report(
        run={"document": "recipes/notes.dlm", "base": "tiny"},
        measures=[Measure("exact match, seen", "share", before=0.0, after=0.95, open_book=0.2)],
        samples=[Sample("seen", "What is kneading?", "Pressing dough.", before="…", after="Pressing dough.")],
        history=trainer.state.log_history,
    )
    write("runs/notes", report)

The picture shows curves from the trainer's log, and bars for measures with the unit "share" (except `NOT_DRAWN`).
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dlm_trl.notes.escape import markdown as escaped
from dlm_trl.notes.files import replace_file

BARS = {"before": "#9aa5b1", "open_book": "#d29922", "after": "#1f6feb"}
NOT_DRAWN = ("fuzzy match",)  # only in the table: a third bar for the same answers would add little
OPEN_BOOK = (
    "open book: the base model before training, with the notes in its prompt. If they are too long, it gets the "
    "paragraphs that share most words with the question."
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number before and after the run; None if it couldn't be measured (for example, without validation rows).

    unit: "share" (0 to 1), or another unit such as "nats per token". open_book: the base model's number with the notes
    in its prompt, None for measures that don't depend on the notes.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    open_book: float | None = None


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


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a report.

    run: facts about the run by name, in display order; the values must fit in JSON. history: the trainer's
    `state.log_history`, dicts with "step" and any of "loss", "learning_rate", "eval_loss" and the numbers of online
    synthesis and `MeasureDuring`. rows: some (prompt, target) rows of a task.
    """

    run: Mapping[str, Any]
    measures: Sequence[Measure]
    samples: Sequence[Sample] = ()
    history: Sequence[Mapping[str, Any]] = field(default=())
    rows: Sequence[tuple[str, str]] = ()


def write(output_dir: str | os.PathLike[str], report: Report) -> Path:
    """Write the three files to `output_dir`, which is created if needed; returns the path of `report.md`.

    Each file is replaced as a whole. Raises DlmError (DlmWriteError) if one can't be written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(asdict(report)), ensure_ascii=False, indent=2, allow_nan=False)
    replace_file(folder / "report.json", f"{text}\n".encode())
    FigureCanvasAgg(figure := draw(report))
    figure.savefig(picture := BytesIO(), dpi=120)
    replace_file(folder / "report.png", picture.getvalue())
    replace_file(folder / "report.md", markdown(report).encode())
    return folder / "report.md"


def markdown(report: Report) -> str:
    """The report as Markdown: facts, numbers before and after, the picture, sample answers."""
    facts = "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in report.run.items())
    parts = ["# Training report", facts, measures_table(report.measures), "![loss, learning rate, recall](report.png)"]
    if report.samples:
        parts += ["## Sample answers", _samples_table(report.samples)]
    if report.rows:
        parts += ["## Rows of the last step", markdown_table(("prompt", "target"), report.rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def measures_table(measures: Sequence[Measure]) -> str:
    """The numbers before and after as a Markdown table, aligned so that it's readable in a terminal too.

    If any measure has an open-book number, adds a column for it, and a line that explains it.
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
    """Three panels: training and validation loss, the learning rate or a task's accuracy, and bars for the shares."""
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
    """Accuracy on training rows, on each condition and of guessing; on a second axis the general text's perplexity."""
    axes.set(title="Accuracy", xlabel="step", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _curve(axes, history, "online/accuracy", "training rows", "-")
    for name in dict.fromkeys(name for line in history for name in line):
        if name.startswith("eval_mcsb/") and name.endswith("/accuracy"):
            _curve(axes, history, name, name.split("/")[1], "o-")
    _curve(axes, history, "online/chance", "chance", "k:")
    if any("eval_perplexity" in line for line in history):
        second = axes.twinx()
        _curve(second, history, "eval_perplexity", "perplexity, general text", "--", color="#888888")
        second.set(ylabel="perplexity, general text")
        # From 0 to twice the first value, so that small changes look small. A diverged run may have no finite value.
        values = [float(line["eval_perplexity"]) for line in history if "eval_perplexity" in line]
        if finite := [value for value in values if math.isfinite(value)]:
            second.set_ylim(0, max(2 * finite[0], 1.05 * max(finite)))
        second.spines[["top"]].set_visible(False)
    both = [each for each in axes.figure.axes if each.bbox.bounds == axes.bbox.bounds]
    lines = [line for each in both for line in each.lines]
    labels = [str(line.get_label()) for line in lines]
    axes.legend(lines, labels, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8)


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
        # Measures without an open-book number get no bar there.
        having = [(row, m) for row, m in enumerate(measures) if column != "open_book" or m.open_book is not None]
        values = [getattr(measure, column) for _, measure in having]
        rows = [row + (number - (len(shown) - 1) / 2) * height for row, _ in having]
        colour = BARS[column]
        bars = axes.barh(rows, [value or 0.0 for value in values], 0.95 * height, color=colour, label=_label(column))
        axes.bar_label(bars, [_number(value, "share") for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(measures)), [measure.name for measure in measures])
    axes.invert_yaxis()  # the first measure at the top, as in the table
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(shown))


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if unit == "share" else f"{value:,.3f}"


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
