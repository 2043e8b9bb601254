"""The data that moves through the stages: a `QAPair` from a teacher, and a `Candidate`, a pair with its origin."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from dlm_trl.asking.facts import Fact
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.view_kinds import PAIR_KINDS, ViewKind


class QAPair(NamedTuple):
    """A question and its answer, as plain text; `notes.blocks.Pair` is one parsed from a file.

    A prose view has an empty question.
    """

    @property
    def shown(self) -> str:
        """The line that stands for it in reports."""
        return self.question or self.answer

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The judge's scores of a pair; log-probabilities are in nats per token of the answer.

    margin: log-probability of the answer minus that of an empty answer, after the question; of an extraction, with the
    prose in the prompt. grounding: log-probability of the answer with the prose in the prompt minus without it.
    overlap: fraction of the answer's content words that occur in the prose in any form, 0 to 1. lead: of a question
    about one sentence, how much more it favours that sentence as its answer than the best of those nearby, with the
    prose in the prompt; None for other pairs. runner_up: that best sentence nearby; None if the sentence has no
    neighbours. novelty: without the prose, log-probability of an empty answer minus that of this one: what the judge
    can't say yet is high. ending: log-probability that the answer ends where it does (nats, not per token); None for a
    question about a sentence.

    Of a prose view, grounding and overlap only: margin and novelty are 0.
    """

    margin: float
    grounding: float
    overlap: float
    lead: float | None = None
    runner_up: str | None = None
    novelty: float | None = None
    ending: float | None = None


def scored(scores: Scores) -> dict[str, float]:
    """The scores that are numbers, by name."""
    return {name: value for name, value in asdict(scores).items() if isinstance(value, float)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair and where it came from.

    prose: the window of the section that the teacher read. request_key: of its request in the ledger. index: its
    position in the reply. adapter: the one its prose section trains, or None. fact: the sentence it was asked about, or
    None. opening: what a rule wrote of its question. limits: the least that scores had to be, by their
    name. kind: of a view, or None. about: the sentences that a view is about.
    """

    pair: QAPair
    section_id: str
    strategy: Strategy
    prose: str
    request_key: str
    index: int
    teacher: str
    adapter: str | None = None
    scores: Scores | None = None
    fact: Fact | None = None
    opening: str = ""
    limits: dict[str, float] = field(default_factory=dict)
    kind: ViewKind | None = None
    about: tuple[str, ...] = ()

    @property
    def is_prose(self) -> bool:
        """Whether it is a text without a question."""
        return self.kind is not None and self.kind not in PAIR_KINDS
