"""What a run did, written down: `report.json` for programs, `report.md` for people, `report.png` for a glance.

    report = Report(
        run={"document": "recipes/notes.dlm", "base": "tiny"},
        measures=[Measure("exact recall, seen questions", "share", before=0.0, after=0.95)],
        samples=[Sample("seen", "What is kneading?", "Pressing dough.", before="…", after="Pressing dough.")],
        history=trainer.state.log_history,
    )
    write("runs/notes", report)

A measure whose unit is "share" is a bar in the picture; the curves are drawn from the trainer's own log.
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

BEFORE, AFTER = "#9aa5b1", "#1f6feb"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number before and after the run; None where it could not be measured (no validation rows, say).

    `unit`: "share" (0 to 1), or what the number counts, such as "nats per token".
    """

    name: str
    unit: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with the answer of the notes and what the model said before and after the run."""

    group: str
    question: str
    answer: str
    before: str
    after: str


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
        rows = [(s.group, s.question, s.answer, s.before, s.after) for s in report.samples]
        parts += ["## Answers side by side", markdown_table(("", "question", "notes", "before", "after"), rows)]
    if report.rows:
        parts += ["## Rows of the last step", markdown_table(("prompt", "target"), report.rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def measures_table(measures: Sequence[Measure]) -> str:
    """The numbers before and after as a Markdown table, lined up so that it reads well in a terminal too."""
    rows = [(f"{m.name} ({m.unit})", _number(m.before, m.unit), _number(m.after, m.unit)) for m in measures]
    return markdown_table(("", "before", "after"), rows, numbers_from=1)


def draw(report: Report) -> Figure:
    """Three panels: loss (training and validation), learning rate or a task's accuracy over the steps, the shares
    before and after.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
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
    _bars(shares, [measure for measure in report.measures if measure.unit == "share"])
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
    for offset, colour, label in ((-0.2, BEFORE, "before"), (0.2, AFTER, "after")):
        values = [getattr(measure, label) for measure in measures]
        rows = [row + offset for row in range(len(measures))]
        bars = axes.barh(rows, [value or 0.0 for value in values], 0.38, color=colour, label=label)
        axes.bar_label(bars, [_number(value, "share") for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(measures)), [measure.name for measure in measures])
    axes.invert_yaxis()  # the first measure on top, as in the table
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)


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
