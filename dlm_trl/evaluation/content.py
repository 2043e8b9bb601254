"""What a report says, as `report` (Markdown, JSON) and `page` (HTML) show it: `Report`, and its numbers by group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlm_trl.evaluation.advice import Missed
from dlm_trl.evaluation.numbers import Measure, Sample
from dlm_trl.notes.synth_runs import SynthRun

OPEN_BOOK = (
    "open book: the base model before training, with the notes in its prompt. If they are too long, it gets the "
    "paragraphs that share most words with the question."
)
# The scores of the table by group, with their headings and what they mean.
BY_GROUP = {
    "F1": ("F1", "F1: token F1 of the written answers, averaged over the group."),
    "multiple choice": (
        "choice",
        "choice: how often the question favours the right one of four answers of the document (guessing: 25 %).",
    ),
}
GROUP_MEANINGS = {
    "seen": "pairs that are trained",
    "reworded": "the same questions in other words",
    "held-out": "facts that no trained pair asks about",
    "reverse": "asked from the other side",
    "traps": "what the notes don't say",
}
INVENTIONS = "inventions, traps"
PERPLEXITY = "perplexity, general text"


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a report.

    run: facts about the run by name, in display order; the values must fit in JSON. history: the trainer's
    `state.log_history`, dicts with "step" and any of "loss", "learning_rate", "eval_loss" and the numbers of online
    synthesis and `MeasureDuring`. rows: some (prompt, target) rows of a task. missed, advice: see `advice`. synthesis:
    the document's synthesis runs, oldest first. lineage: the steps that led to the adapter. settings: name, value and
    source of each.
    """

    run: Mapping[str, Any]
    measures: Sequence[Measure]
    samples: Sequence[Sample] = ()
    history: Sequence[Mapping[str, Any]] = field(default=())
    rows: Sequence[tuple[str, str]] = ()
    missed: Sequence[Missed] = ()
    advice: Sequence[str] = ()
    synthesis: Sequence[SynthRun] = ()
    lineage: Sequence[Mapping[str, Any]] = ()
    settings: Sequence[tuple[str, str, str]] = ()


def score_of(measure: Measure) -> str:
    """The name of a measure without its group: "F1" of "F1, seen"."""
    return measure.name.removesuffix(f", {measure.group}")


def in_groups(measures: Sequence[Measure]) -> list[Measure]:
    """The measures of the table by group."""
    return [m for m in measures if m.group and score_of(m) in BY_GROUP]


def besides_groups(measures: Sequence[Measure]) -> list[Measure]:
    """The measures to show beside that table: all without a group, and the inventions."""
    return [m for m in measures if m.name.startswith("inventions") or not m.group]


def meanings(measures: Sequence[Measure], with_open_book: bool) -> list[str]:
    """What the numbers mean: the scores of the table by group, the open book, and the measures' own notes."""
    shown = {score_of(measure) for measure in in_groups(measures)}
    scores = [meaning for score, (_, meaning) in BY_GROUP.items() if score in shown]
    notes = [measure.note for measure in measures if measure.note]
    return [*scores, *([OPEN_BOOK] if with_open_book else []), *notes]
