"""The data that moves through the stages: a `QAPair` from a teacher, and a `Candidate`, a pair with its origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dlm_trl.synth.facts import Fact
from dlm_trl.synth.prompts import Strategy


class QAPair(NamedTuple):
    """A question and its answer, as plain text; `notes.blocks.Pair` is one parsed from a file."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The judge's scores of a pair.

    margin: mean log-probability of the answer minus that of an empty answer, in nats per token. grounding: mean
    log-probability of the answer with the prose in the prompt minus without it, in nats per token. overlap: fraction
    of the answer's content words that occur in the prose, 0 to 1. lead: of a question about one sentence, how much more
    it favours that sentence as its answer than the best of those nearby, with the prose in the prompt, in nats per
    token; None for other pairs. runner_up: that best sentence nearby; None if the sentence has no neighbours.
    """

    margin: float
    grounding: float
    overlap: float
    lead: float | None = None
    runner_up: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair and where it came from.

    prose: the window of the section that the teacher read. request_key: of its request in the ledger. index: its
    position in the reply. adapter: the one its prose section trains, or None. fact: the sentence it was asked about, or
    None. certainty: see `questions.certainty`; of pairs with a fact. limits: the least that scores had to be, by their
    name.
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
    certainty: int = 0
    limits: dict[str, float] = field(default_factory=dict)
