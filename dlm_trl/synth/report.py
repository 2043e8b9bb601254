"""What happened in a run: counts per stage, each rejected pair with its reason, and advice if nothing was kept."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from dlm_trl.notes.escape import redact
from dlm_trl.notes.synth_runs import SynthRun
from dlm_trl.rows.views import ProseView
from dlm_trl.synth.coverage import Totals
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.staging import Staged
from dlm_trl.teachers.protocol import Usage

Stage = Literal[
    "guard", "question", "answer", "prose", "echo", "leak", "duplicate", "judge", "threshold", "ending", "grounding",
    "novelty", "surplus",
]  # fmt: skip


@dataclass(slots=True)
class Counts:
    """Requests, replies and pairs of a run, stage by stage; a pair is rejected in at most one stage."""

    sections: int = 0
    sent: int = 0  # requests to the teacher in this run
    from_ledger: int = 0  # requests answered by the ledger
    divided: int = 0  # requests that exceeded the teacher's context and were replaced by shorter ones
    failed: int = 0  # requests without a reply
    retried: int = 0  # of `sent`: second requests after an unreadable reply
    unparsed: int = 0  # requests whose second reply was unreadable, too
    generated: int = 0  # pairs in the replies
    guard: int = 0  # pairs that can't be written into a document
    question: int = 0  # questions that can't be asked, by their words
    answer: int = 0  # answers that can't be right, by their words
    prose: int = 0  # prose views that can't be trained on, by their words
    echo: int = 0  # pairs that repeat the request
    leak: int = 0
    duplicate: int = 0
    judge: int = 0  # margin not above zero
    threshold: int = 0  # margin above zero, but below the threshold
    ending: int = 0  # answers that the judge finds cut off
    grounding: int = 0
    novelty: int = 0
    surplus: int = 0  # good, but more than requested
    kept: int = 0

    @property
    def replied(self) -> int:
        return self.sent + self.from_ledger - self.divided - self.failed

    @property
    def after_dedup(self) -> int:
        """Pairs left after the guard, the checks of words, echoes and leaks, and deduplication."""
        lost = self.guard + self.question + self.answer + self.prose + self.echo + self.leak + self.duplicate
        return self.generated - lost

    @property
    def judge_passed(self) -> int:
        """Of these, the pairs with a margin above zero."""
        return self.after_dedup - self.judge

    @property
    def above_threshold(self) -> int:
        return self.judge_passed - self.threshold

    def add(self, other: Counts) -> None:
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(frozen=True, slots=True)
class Loss:
    """A rejected pair, the stage that rejected it, and why.

    reason: what many pairs may have in common, and after ": ", if anything, what is special about this one
    ("not in the text: coffee").
    """

    stage: Stage
    pair: QAPair
    section_id: str
    reason: str

    @property
    def kind(self) -> str:
        """The part of the reason that other losses may share."""
        return self.reason.partition(": ")[0]

    @property
    def detail(self) -> str:
        """The part that is special about this pair; may be empty."""
        return self.reason.partition(": ")[2]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed, or whose reply contained no readable pair."""

    section_id: str
    reason: str


@dataclass(slots=True)
class Synthesis:
    """The outcome of a run for one document.

    staged, stored: the pairs and the prose views that are new. cost: None without prices. has_sources: whether the
    document has `training.sources`. has_views: whether the run asked for views. stopped: why the run ended early, or
    None. coverage: what the document's pairs and the staged ones ask about after the run.
    """

    path: Path
    teacher: str
    judge: str | None
    counts: Counts = field(default_factory=Counts)
    losses: list[Loss] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    staged: list[Staged] = field(default_factory=list)
    stored: list[ProseView] = field(default_factory=list)
    applied: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    seconds: float = 0.0
    has_sources: bool = False
    has_views: bool = False
    stopped: str | None = None
    coverage: Totals | None = None

    def record(self, at: str) -> SynthRun:
        """What the document's store keeps of the run. at: when it ended."""
        counts = self.counts
        lost = {stage: getattr(counts, stage) for stage in get_args(Stage)}
        return SynthRun(
            at=at,
            teacher=redact(self.teacher),
            judge=self.judge and redact(self.judge),
            requests=counts.sent + counts.from_ledger,
            from_ledger=counts.from_ledger,
            failed=counts.failed,
            unparsed=counts.unparsed,
            written=counts.generated,
            lost={stage: count for stage, count in lost.items() if count},
            kept=counts.kept,
            tokens=self.usage.prompt_tokens + self.usage.completion_tokens,
            cost=self.cost,
            seconds=round(self.seconds, 1),
            stopped=self.stopped,
        )


SOURCES_NOT_ASKED = (
    "the files of its training.sources are trained, but never asked about. Copy their text into the document, or make "
    "documents of them."
)

# For each way to lose pairs, what to change.
_ADVICE: dict[str, str] = {
    "failed": "the requests failed, see the errors above. Finished replies are kept: rerun the same command to resume.",
    "unparsed": "the replies contained no readable pairs. Try another teacher or a higher --max-new-tokens; "
    "`synth show FILE SECTION` prints the replies.",
    "guard": "the pairs can't be written into a document, see the reasons above. Try another teacher or --prompt.",
    "question": "the questions can't be asked without the text. Try a larger teacher, or --ask list.",
    "answer": "the answers are cut off or contain numbers that the text doesn't have. Try a larger teacher.",
    "prose": "the sentences can't be used, see the reasons above. Try a larger teacher.",
    "echo": "the questions repeat the request: the teacher is too small for this prompt. Try another one, or --prompt.",
    "leak": "the questions repeat validation rows and would inflate the validation metrics. Write more prose.",
    "duplicate": "the pairs repeat others, see the table above. Lower --per-section, or sample other pairs with "
    "--temp 0.8 --seed 1.",
    "judge": 'the judge finds the answers no likelier than "I don\'t know.". Choose a better --judge, or use '
    "--filter dedup-only.",
    "threshold": "the judge's margins are below the threshold. Lower --threshold, or use --filter dedup-only.",
    "ending": "the judge finds the answers cut off. Raise --max-new-tokens, or choose another teacher.",
    "grounding": "the answers don't follow from the prose. Try another teacher, or lower --min-grounding.",
    "novelty": "the judge knows the answers without the prose. Lower --min-novelty.",
}


def advice(counts: Counts, has_sources: bool = False) -> str:
    """Why no pair was kept, and what to do about it. has_sources: whether the document has `training.sources`."""
    if not counts.sections:
        if has_sources:
            return f"The document has no prose to ask about: {SOURCES_NOT_ASKED}"
        return "The document has no prose to ask about. Write some, or add a ::prose:: section."
    if not counts.sent + counts.from_ledger:
        return "No request was sent: the first one could exceed the limit on cost or tokens."
    # If some pairs were new, duplicates aren't the reason that nothing is left.
    names = [name for name in _ADVICE if name != "duplicate" or not counts.after_dedup]
    worst = max(names, key=lambda name: getattr(counts, name))
    if not getattr(counts, worst):
        return "The teacher wrote no pairs. Try another teacher, or --prompt."
    return f"Main reason: {_ADVICE[worst]}"
