"""The picture of a report: `draw(history, measures)`; its curves alone: `curves(history)`.

Curves from the trainer's log, and bars for the numbers before, with open book and after.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dlm_trl.evaluation.numbers import LOWER_IS_BETTER, Measure, label, number, shown_columns

COLOURS = {"before": "#9aa5b1", "open_book": "#d29922", "after": "#1f6feb"}
NOT_DRAWN = ("exact match", "fuzzy match")  # only in the tables: more bars for the same answers would add little


def draw(history: Sequence[Mapping[str, Any]], measures: Sequence[Measure]) -> Figure:
    """Panels: training and validation loss; the learning rate, a task's accuracy or rewards; bars for the shares.

    Shares of which less is better have bars of their own, below the others. history: the trainer's log.
    """
    shares = [m for m in measures if m.unit == "share" and not m.name.startswith(NOT_DRAWN)]
    worse = [m for m in shares if m.name.startswith(LOWER_IS_BETTER)]
    better = [m for m in shares if m not in worse]
    figure = Figure(figsize=(13, max(4, 1.5 + 0.5 * len(better) + 0.9 * len(worse))), layout="constrained")
    columns = figure.add_gridspec(1, 3, width_ratios=(1, 1.2 if _has_task(history) else 1, 1.9))
    loss, middle = figure.add_subplot(columns[0]), figure.add_subplot(columns[1])
    rows = columns[2].subgridspec(2, 1, height_ratios=(max(1, len(better)), 1.2 * len(worse))) if worse else None
    bars = [figure.add_subplot(rows[0] if rows else columns[2])]
    _losses(loss, history)
    _second(middle, history)
    _bars(bars[0], "Before and after (higher is better)", better)
    if rows:
        bars.append(figure.add_subplot(rows[1]))
        _bars(bars[1], "Made-up answers (lower is better)", worse)
    if shares:
        handles, names = bars[0 if better else 1].get_legend_handles_labels()
        figure.legend(handles, names, frameon=False, loc="outside lower right", ncols=len(COLOURS))
    if reached := [m for m in measures if m.unit == "ratio" and m.after is not None]:
        figure.text(0.01, 0.01, "\n".join(_in_words(m) for m in reached))
    for axes in bars:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def curves(history: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The panels with curves, a figure each, by title; those without a point are left out."""
    figures = {}
    second = "Accuracy" if _has_task(history) else "Rewards" if _has_rewards(history) else "Learning rate"
    for title, panel in (("Loss", _losses), (second, _second)):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        panel(axes := figure.add_subplot(), history)
        axes.set_title("")
        if axes.lines:
            figures[title] = figure
    return figures


def _losses(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    for key, name, style in (("loss", "training", "-"), ("eval_loss", "validation", "o--")):
        _curve(axes, history, key, name, style)
    axes.set(title="Loss", xlabel="step", ylabel="per row" if _has_rewards(history) else "nats per token")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)


def _second(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """A task's accuracy, or the rewards of preferences, else the learning rate."""
    axes.spines[["top", "right"]].set_visible(False)
    if _has_task(history):
        _accuracy(axes, history)
        return
    if _has_rewards(history):
        _rewards(axes, history)
        return
    _curve(axes, history, "learning_rate", "learning rate", "-")
    axes.set(title="Learning rate", xlabel="step")
    axes.set_ylim(bottom=0)


def _in_words(ratio: Measure) -> str:
    """A ratio, which may exceed 1 and so has no bar."""
    interval = "" if ratio.low is None else f" (95 %: {number(ratio.low, 'ratio')} to {number(ratio.high, 'ratio')})"
    return f"{ratio.name}: {number(ratio.after, 'ratio')}{interval}"


def _has_task(history: Sequence[Mapping[str, Any]]) -> bool:
    return any(name == "online/accuracy" or name.startswith("eval_mcsb/") for line in history for name in line)


def _has_rewards(history: Sequence[Mapping[str, Any]]) -> bool:
    return any("rewards/margins" in line for line in history)


def _rewards(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """The rewards of both answers while preferences are trained, and their difference."""
    axes.set(title="Rewards", xlabel="step", ylabel="nats")
    for key, name, style in (("chosen", "chosen", "-"), ("rejected", "rejected", "-"), ("margins", "margin", "k--")):
        _curve(axes, history, f"rewards/{key}", name, style)
    axes.legend(frameon=False, loc="center right")


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


def _bars(axes: Axes, title: str, measures: Sequence[Measure]) -> None:
    axes.set_title(title)
    axes.set_xlim(0, 1.12)  # room for the label of a full bar
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    if not measures:
        return
    shown = shown_columns(measures)
    height = 0.8 / len(shown)
    for position, column in enumerate(shown):
        # Measures without an open-book number get no bar there.
        having = [(row, m) for row, m in enumerate(measures) if column != "open_book" or m.open_book is not None]
        values = [getattr(measure, column) for _, measure in having]
        rows = [row + (position - (len(shown) - 1) / 2) * height for row, _ in having]
        colour = COLOURS[column]
        bars = axes.barh(rows, [value or 0.0 for value in values], 0.95 * height, color=colour, label=label(column))
        axes.bar_label(bars, [number(value, "share") for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(measures)), [measure.name for measure in measures])
    axes.invert_yaxis()  # the first measure at the top, as in the table
