"""One run for one document, from its prose to staged pairs: `synthesize("notes.dlm", Settings(teacher="hf:tiny"))`.

Requests go out in waves. All of them are one wave, unless `max_pairs` or a budget may end the run earlier. What comes
back goes through the funnel in the order of the plan, not in that of arrival, so that a run that was killed and
repeated stages what the uninterrupted one would have.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from dlm_trl.models.ranks import map_over_ranks
from dlm_trl.notes import Document, read
from dlm_trl.synth import prompts
from dlm_trl.synth.apply import apply
from dlm_trl.synth.budget import Budget, bound_of, price_of
from dlm_trl.synth.funnel import Funnel
from dlm_trl.synth.judge import Judge, judging_adapter, open_judge
from dlm_trl.synth.ledger import Ledger, now, run_lock
from dlm_trl.synth.pairs import Candidate, Pair
from dlm_trl.synth.plan import Ask, Settings, again, plan
from dlm_trl.synth.replies import parse_reply
from dlm_trl.synth.report import Failure, Synthesis
from dlm_trl.synth.staging import Staged, stage, staged
from dlm_trl.teachers.load import inspect_teacher, is_self, load_teacher
from dlm_trl.teachers.protocol import Reply, Teacher, Usage

logger = logging.getLogger(__name__)

OnReply = Callable[[Reply, int], None]  # a reply that came now, and how many requests are still waiting


def synthesize(
    path: str | os.PathLike[str],
    settings: Settings | None = None,
    apply_now: bool = False,
    teacher: Teacher | None = None,
    judge: Judge | None = None,
    budget: Budget | None = None,
    on_reply: OnReply | None = None,
) -> Synthesis:
    """Asks the teacher about the document's prose and stages the pairs that pass; with apply_now they go into the file.

    teacher and judge are those that the settings name, unless ones that are loaded already are given; budget likewise,
    to share one among documents. Under `accelerate launch` each process asks its share, and all return the same.
    Raises DlmError before the first request where something that the run needs is missing.
    """
    settings = settings or Settings()
    document = read(path)
    started = time.monotonic()
    teacher = teacher or load_teacher(settings.teacher, document, settings.quantization, settings.concurrency)
    if settings.filter == "sway":
        judge = judge or _judge(document, settings)
    outcome = Synthesis(Path(path), teacher.reference, judge.name if judge else None)
    with ExitStack() as held:
        # Of several processes the first takes the lock, and the others wait: none may read before what a run that
        # holds it is still writing.
        map_over_ranks(
            [document.frontmatter.dlm_id], lambda ids: [held.enter_context(run_lock(dlm_id)) for dlm_id in ids]
        )
        document = read(path)  # once more: that run may have applied pairs
        ledger = Ledger(document)
        map_over_ranks([None], lambda items: items)  # every process has read both before one of them writes
        asks = plan(document, settings, teacher)
        outcome.counts.sections = len({ask.section_id for ask in asks})
        run = _Run(settings, teacher, ledger, budget or _budget(settings), outcome, on_reply)
        kept = run.all_waves(asks, Funnel(document, staged(document), settings, judge, outcome))
        # The first process writes, and where it cannot, all of them say so.
        written = map_over_ranks([kept], lambda parts: [_written(document, part, apply_now) for part in parts])
        ((outcome.staged, outcome.applied),) = written
    outcome.counts.kept = len(kept)
    outcome.cost = price_of(outcome.usage, settings.price)
    outcome.seconds = time.monotonic() - started
    return outcome


def synthesize_all(
    paths: Sequence[str | os.PathLike[str]],
    settings: Settings,
    apply_now: bool = False,
    on_reply: OnReply | None = None,
) -> Iterator[Synthesis]:
    """`synthesize` for each document in turn: one budget for all, and models that serve all are loaded once.

    Raises DlmError as `check` does for one of the documents, before anything is asked about another.
    """
    documents = [read(path) for path in paths]
    for document in documents:
        check(document, settings)
    budget = _budget(settings)
    teacher = judge = None
    for path, document in zip(paths, documents, strict=True):
        if not is_self(settings.teacher):
            teacher = teacher or load_teacher(settings.teacher, document, settings.quantization, settings.concurrency)
        if settings.filter == "sway":
            judge = _judge(document, settings)
        yield synthesize(path, settings, apply_now, teacher, judge, budget, on_reply)
        if judge and is_self(judge.name):
            judge = None  # the next document has an adapter of its own; a base is held, and not loaded again


def check(document: Document, settings: Settings) -> None:
    """Raises DlmError for what a run about this document would end with before its first request, as far as that can
    be told without weights: its ledger, its staged pairs, its own pairs, the prompt, and its adapter where that is the
    teacher or the judge.
    """
    Ledger(document)
    staged(document)
    if settings.prompt is not None:
        prompts.read_prompt(Path(settings.prompt))
    if settings.filter != "none":  # then nothing is compared with them
        for section in document.sections:
            section.pairs()
    if is_self(settings.teacher):
        inspect_teacher(settings.teacher, document, settings.quantization)
    if settings.filter == "sway" and settings.judge is not None and is_self(settings.judge):
        judging_adapter(settings.judge, document)


def _judge(document: Document, settings: Settings) -> Judge:
    return open_judge(document, settings.judge, settings.quantization)


def _budget(settings: Settings) -> Budget:
    return Budget(settings.budget_tokens, settings.max_cost, settings.price)


@dataclass(slots=True)
class _Run:
    settings: Settings
    teacher: Teacher
    ledger: Ledger
    budget: Budget
    outcome: Synthesis
    on_reply: OnReply | None
    second: set[str] = field(default_factory=set)  # keys of requests about a reply that could not be read
    waiting: list[Ask] = field(default_factory=list)
    has_guessed: bool = False

    def all_waves(self, asks: list[Ask], funnel: Funnel) -> list[Candidate]:
        """Asks until the plan is done, enough pairs are kept, or the budget ends; returns what was kept."""
        kept: list[Candidate] = []
        self.waiting = asks
        while self.waiting and not self._enough(kept):
            wave = self._next_wave(kept)
            if not wave:
                self.outcome.stopped = f"The budget ends here: {len(self.waiting)} requests were not sent."
                break
            self.waiting = self.waiting[len(wave) :]
            new = {ask.request.key for ask in wave if self._remembered(ask) is None}
            self.outcome.counts.asked += len(new)
            self.outcome.counts.asked_again += len(new & self.second)
            self.outcome.counts.remembered += len(wave) - len(new)
            replies = map_over_ranks(wave, self._answers)
            answered = {ask.request.key: (ask, reply) for ask, reply in zip(wave, replies, strict=True)}
            for key in new:
                self._spend(*answered[key])
            accepted = funnel.take(self._parsed(wave, replies))
            kept += self._wanted(accepted, kept, funnel)
        for ask in self.waiting:
            if ask.request.key in self.second:
                self.outcome.counts.unparsed += 1
                self.outcome.failures.append(Failure(ask.section_id, "No pair could be read, and the run ended here."))
        return kept

    def _enough(self, kept: Sequence[Candidate]) -> bool:
        return self.settings.max_pairs is not None and len(kept) >= self.settings.max_pairs

    def _next_wave(self, kept: Sequence[Candidate]) -> list[Ask]:
        """As many requests as may be needed, and as the budget allows."""
        wave = self.waiting
        if self.settings.max_pairs is not None:
            wave = wave[: self.settings.max_pairs - len(kept)]
        new = [ask for ask in wave if self._remembered(ask) is None]
        affordable = self.budget.affordable([bound_of(ask.request, self.teacher) for ask in new])
        return wave if affordable == len(new) else wave[: wave.index(new[affordable])]

    def _spend(self, ask: Ask, reply: Reply) -> None:
        """Counts what a reply used: all that it could have used, where the server does not tell."""
        is_told = reply.error is not None or reply.usage != Usage()
        if not is_told and not self.has_guessed:
            self.has_guessed = True
            logger.warning("%s does not tell what it uses: counting the most that it can.", self.teacher.reference)
        usage = reply.usage if is_told else bound_of(ask.request, self.teacher)
        self.budget.spend(usage)
        self.outcome.usage += usage

    def _remembered(self, ask: Ask) -> Reply | None:
        return None if self.settings.fresh else self.ledger.get(ask.request.key)

    def _answers(self, wave: Sequence[Ask]) -> list[Reply]:
        """This process's part of a wave: from the ledger, or from the teacher and into the ledger."""
        answers = {ask.request.key: reply for ask in wave if (reply := self._remembered(ask))}
        new = {ask.request.key: ask for ask in wave if ask.request.key not in answers}
        with closing(self.teacher.generate([ask.request for ask in new.values()])) as replies:
            for reply in replies:
                ask = new[reply.key]
                facts = {"teacher": self.teacher.reference, "section_id": ask.section_id, "strategy": ask.strategy}
                self.ledger.record(ask.request, reply, **facts)
                answers[reply.key] = reply
                if self.on_reply:
                    self.on_reply(reply, len(new) - len(answers.keys() & new.keys()) + len(self.waiting))
        self.ledger.sync()
        return [answers[ask.request.key] for ask in wave]

    def _parsed(self, wave: Sequence[Ask], replies: Sequence[Reply]) -> list[tuple[Ask, list[Pair]]]:
        """What the replies of a wave hold; one that cannot be read is asked about again, once, in the next wave."""
        found, retries = [], []
        for ask, reply in zip(wave, replies, strict=True):
            if reply.error is not None:
                self.outcome.counts.failed += 1
                self.outcome.failures.append(Failure(ask.section_id, reply.error))
                continue
            is_cut = reply.usage.completion_tokens >= ask.request.max_new_tokens
            parsed = parse_reply(reply.text, is_cut)
            if parsed.pairs:
                found.append((ask, parsed.pairs))
                continue
            problem = parsed.problem or ""
            is_first = ask.request.key not in self.second
            if is_first and (retry := again(ask, reply.text, problem, self.settings, self.teacher)):
                self.second.add(retry.request.key)
                retries.append(retry)
            else:
                self.outcome.counts.unparsed += 1
                self.outcome.failures.append(Failure(ask.section_id, problem))
        self.waiting = retries + self.waiting
        return found

    def _wanted(self, accepted: Sequence[Candidate], kept: Sequence[Candidate], funnel: Funnel) -> list[Candidate]:
        """Of these, no more in all than `max_pairs`: a section's first pair before another's second."""
        of_section: Counter[str] = Counter(candidate.section_id for candidate in kept)
        turns = []
        for candidate in accepted:
            of_section[candidate.section_id] += 1
            turns.append((of_section[candidate.section_id], candidate))
        turns.sort(key=lambda item: item[0])
        most = len(turns) if self.settings.max_pairs is None else self.settings.max_pairs - len(kept)
        for _, candidate in turns[most:]:
            funnel.lose("surplus", candidate, "more than --max-pairs")
        return [candidate for _, candidate in turns[:most]]


def _written(document: Document, kept: Sequence[Candidate], apply_now: bool) -> tuple[list[Staged], int]:
    """Stages these pairs, and applies them where that is wanted: what is newly staged, and how many were applied."""
    new = stage(document, _in_file_order(kept, document), now())
    if not apply_now:
        return new, 0
    assert document.path is not None
    found = {candidate.pair for candidate in kept}  # also what a run that was killed had staged
    ids = [item.section_id for item in staged(document) if item.pair in found]
    return new, apply(document.path, ids).count


def _in_file_order(kept: Sequence[Candidate], document: Document) -> list[Candidate]:
    place = {section.section_id: i for i, section in reversed(list(enumerate(document.sections)))}
    return sorted(kept, key=lambda candidate: place[candidate.section_id])
