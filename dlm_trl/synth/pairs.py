"""What moves through the stages: a `QAPair` as the teacher meant it, and a `Candidate`, which knows its origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dlm_trl.synth.prompts import Strategy


class QAPair(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Scores:
    """What the judge and the grounding check found; log-probabilities in nats per token.

    margin is the answer's mean log-probability minus that of the empty baseline, grounding its mean log-probability
    with the prose in the prompt minus without, overlap the share of its content words that the prose holds (0 to 1).
    """

    margin: float
    grounding: float
    overlap: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that went through the guard: prose is the window of the section that the teacher saw.

    request_key and index (the place in the reply) tell where it came from, and find it again in the ledger. adapter is
    the one that the section is for, None where it names none.
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
