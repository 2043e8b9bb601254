"""The report as one HTML page: `page(report)`. It loads nothing from elsewhere and runs no script.

The template `page.html.jinja` escapes every value, so notes and answers are shown as text, whatever they contain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from dlm_trl.evaluation.advice import MISSED, is_right
from dlm_trl.evaluation.content import (
    BY_GROUP,
    GROUP_MEANINGS,
    INVENTIONS,
    PERPLEXITY,
    Report,
    besides_groups,
    in_groups,
    meanings,
    score_of,
)
from dlm_trl.evaluation.numbers import LOWER_IS_BETTER, Measure, Sample, label, number, shown_columns
from dlm_trl.evaluation.picture import COLOURS, curves
from dlm_trl.evaluation.spec import TRAPS
from dlm_trl.notes.escape import printable

TEMPLATE = "page.html.jinja"
INK = "#000000"  # what the curves draw in this colour takes the colour of the page's text, which is dark or light
SUBTITLE = ("base", "adapter", "training", "hardware", "finished")
FIGURES = 6  # numbers at the top of the page
OPEN_ROWS = 12  # a longer list of missed questions is folded
SYNTHESIS_RUNS = 5  # the last ones of the document
# What the stages of `synth.report` reject.
STAGES = {
    "guard": "can't be written into the file",
    "question": "can't be asked without the text",
    "answer": "answers that can't be right",
    "prose": "sentences that can't be trained on",
    "echo": "repeat the request",
    "leak": "ask what is held out for validation",
    "duplicate": "ask what another pair asks",
    "judge": "no likelier than “I don't know”",
    "threshold": "below the judge's threshold",
    "ending": "cut off, the judge finds",
    "grounding": "don't follow from the prose",
    "novelty": "known without the prose",
    "surplus": "more than requested",
}


def page(report: Report) -> str:
    """The whole page. Sections without content are left out."""
    measures, columns = report.measures, shown_columns(report.measures)
    grouped = in_groups(measures)
    shown, more = _first_samples([sample for sample in report.samples if sample.group != TRAPS])
    text = _template().render(
        report=report,
        title=_title(report.run),
        subtitle=" · ".join(words(report.run[name]) for name in SUBTITLE if name in report.run),
        figures=_figures(measures),
        facts=[(name, words(value)) for name, value in report.run.items()],
        columns=columns,
        scores=[(score, BY_GROUP[score][0]) for score in BY_GROUP if any(score_of(m) == score for m in grouped)],
        groups=_groups(grouped),
        others=besides_groups(measures) if grouped else measures,
        meanings=meanings(measures, "open_book" in columns),
        curves=[(title, _svg(figure, title)) for title, figure in curves(report.history).items()],
        samples=shown,
        more_samples=more,
        traps=[sample for sample in report.samples if sample.group == TRAPS],
        inventions=next((m for m in measures if m.name == INVENTIONS), None),
        missed=[(group, list(every)) for group, every in groupby(report.missed, lambda one: one.group)],
        synthesis=[_funnel(run) for run in reversed(report.synthesis[-SYNTHESIS_RUNS:])],
        earlier_runs=max(0, len(report.synthesis) - SYNTHESIS_RUNS),
        lineage=[(step["step"], _record(step)) for step in report.lineage],
        chosen=[setting for setting in report.settings if not setting[2].startswith("default")],
        defaults=[setting for setting in report.settings if setting[2].startswith("default")],
    )
    return f"{text.strip()}\n"


def words(value: object) -> str:
    """A value of a run's facts or of a lineage for people: without braces and quotes."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{name}: {words(item)}" for name, item in value.items()) or "–"
        case list() | tuple():
            return ", ".join(words(item) for item in value) or "–"
        case float():
            return f"{value:g}"
    return str(value)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    environment.globals |= {
        "colours": COLOURS,
        "group_meanings": GROUP_MEANINGS,
        "is_right": is_right,
        "label": label,
        "lower_is_better": LOWER_IS_BETTER,
        "missed_below": MISSED,
        "number": number,
        "open_rows": OPEN_ROWS,
        "place": lambda one: "–" if one.file is None else f"{Path(one.file).name}:{one.line}",
        "version": version("dlm-trl"),
        "width": lambda value: f"{100 * min(1.0, max(0.0, value or 0.0)):.1f}",
    }
    return environment.get_template(TEMPLATE)


def _title(run: Mapping[str, Any]) -> str:
    base = str(run.get("base", "the model")).partition(",")[0]
    sources = [Path(str(run[name])).name for name in ("document", "task", "rows of a task") if name in run]
    return f"What {base} learned from {' and '.join(sources)}" if sources else f"What {base} learned"


def _figures(measures: Sequence[Measure]) -> list[tuple[str, str, Measure]]:
    """The numbers to show first: name, what it is about, and the measure itself."""
    f1 = [m for m in in_groups(measures) if score_of(m) == "F1"]
    chosen = [(f"F1, {m.group}", GROUP_MEANINGS.get(str(m.group), ""), m) for m in f1]
    if not chosen:
        of_task = [m for m in measures if m.name.endswith("/accuracy")]
        chosen = [(m.name.removesuffix("/accuracy"), "accuracy", m) for m in of_task[: FIGURES - 2]]
    named = {measure.name: measure for measure in measures}
    if traps := named.get(INVENTIONS):
        chosen.append(("made up", "answers to what the notes don't say; lower is better", traps))
    if perplexity := named.get(PERPLEXITY):
        chosen.append(("perplexity", f"of general text: {_change(perplexity)}", perplexity))
    return chosen[:FIGURES]


def _change(measure: Measure) -> str:
    if not measure.before or measure.after is None:
        return "what was forgotten"
    return f"{measure.after / measure.before - 1:+.1%}; a rise is what was forgotten"


def _groups(measures: Sequence[Measure]) -> list[tuple[str, int | None, dict[str, Measure]]]:
    """Each group with its number of questions, and its measures by score."""
    groups: dict[str, dict[str, Measure]] = {}
    for measure in measures:
        groups.setdefault(str(measure.group), {})[score_of(measure)] = measure
    return [(group, next(iter(of_group.values())).questions, of_group) for group, of_group in groups.items()]


def _first_samples(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """A right and a wrong answer of each group as far as there are any, and all others."""
    first: dict[tuple[str, bool], Sample] = {}
    for sample in samples:
        first.setdefault((sample.group, is_right(sample.group, sample.answer, sample.after)), sample)
    chosen = {id(sample) for sample in first.values()}
    return [s for s in samples if id(s) in chosen], [s for s in samples if id(s) not in chosen]


def _funnel(run: Any) -> dict[str, Any]:
    """A synthesis run with what is left after each stage that rejected something."""
    left, stages = run.written, []
    for stage, lost in run.lost.items():
        left -= lost
        stages.append((stage, STAGES.get(stage, ""), lost, left))
    return {"run": run, "stages": stages}


def _record(step: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fields of a step; its measures are in the tables above."""
    return [(name, words(value)) for name, value in step.items() if name not in ("step", "measures")]


def _svg(figure: Figure, title: str) -> Markup:
    """The figure as an SVG element with the page's colour and font, and without what HTML has no use for."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):  # the ids of two figures differ
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written := StringIO(), format="svg", transparent=True, metadata=nothing)
    whole = written.getvalue().replace(INK, "currentColor")
    head, body = whole[whole.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    body = re.sub(r'<g id="[^"]*"', "<g", re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL))
    body = re.sub(r"font-family: [^;]*; ?", "", body)
    return Markup('<svg {} role="img" aria-label="{}">{}').format(Markup(box[0]), title, Markup(body))
