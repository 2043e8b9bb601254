"""What became of everything that was asked and written: counts, and each lost pair with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.staging import Staged
from dlm_trl.teachers.protocol import Usage

Stage = Literal["guard", "leak", "duplicate", "judge", "threshold", "grounding", "surplus"]


@dataclass(slots=True)
class Counts:
    """Requests, replies and pairs of a run, stage by stage; a pair is lost in one stage at most."""

    sections: int = 0
    asked: int = 0  # requests sent now
    remembered: int = 0  # requests that the ledger answered
    failed: int = 0  # requests without a reply
    asked_again: int = 0  # of asked: those about a reply that could not be read
    unparsed: int = 0  # replies that no pair could be read from, the second time neither
    generated: int = 0  # pairs in the replies
    guard: int = 0  # pairs that no file can hold
    leak: int = 0
    duplicate: int = 0
    judge: int = 0  # margin of zero or less
    threshold: int = 0  # margin above zero, below the threshold
    grounding: int = 0
    surplus: int = 0  # good, but more than were wanted
    kept: int = 0

    @property
    def replied(self) -> int:
        return self.asked + self.remembered - self.failed

    @property
    def after_dedup(self) -> int:
        """Pairs that say something new."""
        return self.generated - self.guard - self.leak - self.duplicate

    @property
    def judge_passed(self) -> int:
        """Those of them with a margin above zero."""
        return self.after_dedup - self.judge

    @property
    def above_threshold(self) -> int:
        return self.judge_passed - self.threshold

    def add(self, other: Counts) -> None:
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(frozen=True, slots=True)
class Loss:
    """A pair that did not pass, the stage that stopped it and why."""

    stage: Stage
    pair: QAPair
    section_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a usable reply: it failed, or no pair could be read from what came."""

    section_id: str
    reason: str


@dataclass(slots=True)
class Synthesis:
    """The outcome for one document. cost is None without prices; stopped says why a run ended before its plan did."""

    path: Path
    teacher: str
    judge: str | None
    counts: Counts = field(default_factory=Counts)
    losses: list[Loss] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    staged: list[Staged] = field(default_factory=list)
    applied: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    seconds: float = 0.0
    stopped: str | None = None


# What costs a run most of its pairs, and the knob for it.
_ADVICE: dict[str, str] = {
    "failed": "the requests failed: look at the errors above; what was answered is kept, so the same command goes on.",
    "unparsed": "no pair could be read from the replies: try another teacher, or a higher --max-new-tokens; "
    "`synth show FILE SECTION` has the replies.",
    "guard": "the pairs cannot stand in a document (the reasons are above): try another teacher or --prompt.",
    "leak": "the questions repeat held-out ones, so they would spoil the validation: write more prose.",
    "duplicate": "the pairs repeat others, which the table names: ask for fewer with --per-section, "
    "or for others with --temp 0.8 --seed 1.",
    "judge": 'the judge finds the answers no likelier than "I don\'t know.": train the document first, '
    "name a better --judge, or use --filter dedup-only.",
    "threshold": "the judge's margins are small: lower --threshold, or use --filter dedup-only.",
    "grounding": "the answers do not follow from the prose: try another teacher, or lower --min-grounding.",
}


def advice(counts: Counts) -> str:
    """Why nothing was kept, and what to do."""
    if not counts.sections:
        return "The document has no prose to ask about. Write some, or add a ::prose:: section."
    if not counts.asked + counts.remembered:
        return "Nothing was asked: the first request could use more than the limit of cost or tokens has left."
    # Where some pairs were new, it is not the repeats among them that left nothing.
    names = [name for name in _ADVICE if name != "duplicate" or not counts.after_dedup]
    worst = max(names, key=lambda name: getattr(counts, name))
    if not getattr(counts, worst):
        return "The teacher wrote no pairs. Try another teacher, or --prompt."
    return f"Most were lost here: {_ADVICE[worst]}"
