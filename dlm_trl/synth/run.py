"""One run for one document, from prose to staged pairs: `synthesize(path, SynthSettings(teacher="hf:tiny"))`.

Requests are sent in waves: a single one, unless `max_pairs` or a budget may end the run early. Replies enter the
funnel in the order of the plan, not of their arrival, so a run that was killed and repeated stages the same pairs as
an uninterrupted one.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path

from dlm_trl.asking.language import is_english
from dlm_trl.asking.questions import best
from dlm_trl.asking.short_answers import shortened
from dlm_trl.models.ranks import is_main, map_over_ranks
from dlm_trl.notes import Document, read
from dlm_trl.notes.synth_runs import add_run
from dlm_trl.rows.views import read_views
from dlm_trl.synth import prompts
from dlm_trl.synth.batches import BatchedTeacher, batch_teacher, refuse_batched, submit_ahead
from dlm_trl.synth.budget import Budget, cost_of, max_usage
from dlm_trl.synth.funnel import Funnel
from dlm_trl.synth.judge import Judge, judging_adapter, open_judge
from dlm_trl.synth.ledger import Ledger, now, run_lock
from dlm_trl.synth.pairs import Candidate, QAPair
from dlm_trl.synth.plan import PlannedRequest, retry, split
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.replies import parse_reply
from dlm_trl.synth.report import Failure, Synthesis
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.staging import staged
from dlm_trl.synth.starting_point import starting_point
from dlm_trl.synth.view_prompts import parse_views
from dlm_trl.synth.write import write
from dlm_trl.teachers.load import inspect_teacher, is_self, load_teacher
from dlm_trl.teachers.protocol import Reply, Teacher, Usage

logger = logging.getLogger(__name__)


def synthesize(
    path: str | os.PathLike[str],
    settings: SynthSettings | None = None,
    apply_now: bool = False,
    teacher: Teacher | None = None,
    judge: Judge | None = None,
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Ask a teacher for pairs about the document's prose, and stage those that pass; apply_now writes them to the file.

    teacher, judge: already loaded ones, used instead of those in the settings. budget: to share one between documents.
    progress: is told how far the run is; in this process only.
    Under `accelerate launch`, each process sends its part of the requests, and all return the same outcome. Raises
    DlmError before the first request if something the run needs is missing.
    """
    settings = settings or SynthSettings()
    document = read(path)
    started = time.monotonic()
    teacher = teacher or _load_teacher(document, settings)
    if settings.filter == "sway":
        judge = judge or _load_judge(document, settings)
    outcome = Synthesis(Path(path), teacher.reference, judge.name if judge else None)
    with ExitStack() as locks:
        # The first process takes the lock and the others wait, so that none reads what another run is still writing.
        map_over_ranks(
            [document.frontmatter.dlm_id], lambda ids: [locks.enter_context(run_lock(dlm_id)) for dlm_id in ids]
        )
        document = read(path)  # again, because the run that held the lock may have applied pairs
        ledger, start = Ledger(document), starting_point(document, settings, teacher, apply_now)
        map_over_ranks([None], lambda items: items)  # a barrier: every process has read all this before one writes
        outcome.has_sources = bool(document.frontmatter.training.sources)
        outcome.has_views = settings.views is not None
        outcome.counts.sections = len({planned.section_id for planned in start.requests})
        progress = progress or Progress()
        progress.started(outcome)
        if settings.batch:
            teacher = BatchedTeacher(batch_teacher(teacher), ledger, progress, settings.fresh)
        run = _Run(settings, teacher, ledger, budget or _budget(settings), outcome, progress)
        gone = {pair.section_id for pair in start.coverage.gone}
        funnel = Funnel(document, start.staged, settings, judge, outcome, progress, gone, start.texts)
        kept = run.all_waves(start.requests, funnel)
        # The first process writes; if it fails, all processes raise.
        written = map_over_ranks(
            [kept], lambda parts: [write(document, part, funnel.rejected, apply_now) for part in parts]
        )
        ((outcome.staged, outcome.stored, outcome.applied, outcome.coverage),) = written
    outcome.cost = cost_of(outcome.usage, settings.paid_price)
    outcome.seconds = time.monotonic() - started
    if outcome.counts.sent + outcome.counts.from_ledger and is_main():
        add_run(document.frontmatter.dlm_id, outcome.record(now()))
    return outcome


def synthesize_all(
    paths: Sequence[str | os.PathLike[str]],
    settings: SynthSettings,
    apply_now: bool = False,
    progress: Progress | None = None,
) -> Iterator[Synthesis]:
    """`synthesize` for each document in turn, with one budget, loading models that serve several documents only once.

    Raises DlmError as `check` does for any of the documents before the first request.
    """
    for path in paths:
        check(read(path), settings)  # read again below: a folder may have more documents than fit in memory
    budget = _budget(settings)
    teacher = judge = None
    is_one_wave = settings.max_pairs is None and budget.tokens is None and budget.cost is None
    if settings.batch and is_one_wave and not settings.fresh and len(paths) > 1:
        teacher = _load_teacher(read(paths[0]), settings)
        for path in paths:  # so that they don't wait for each other
            submit_ahead(path, settings, batch_teacher(teacher), apply_now)
    for path in paths:
        if not is_self(settings.teacher):
            teacher = teacher or _load_teacher(read(path), settings)
        if settings.filter == "sway":
            judge = _load_judge(read(path), settings)
        yield synthesize(path, settings, apply_now, teacher, judge, budget, progress)
        if judge and is_self(judge.name):
            judge = None  # free it: the next document has its own adapter


def check(document: Document, settings: SynthSettings) -> None:
    """Raise the DlmError that a run for this document would fail with before its first request.

    Checks what doesn't need weights: the ledger, the staged pairs, the document's pairs, the prompt file, and the
    document's adapter if it is the teacher or the judge.
    """
    Ledger(document)
    staged(document)
    read_views(document)
    prompts.own_prompt(settings.prompt)
    for section in document.sections:  # new pairs are compared with the document's
        section.pairs()
    if is_self(settings.teacher):
        inspect_teacher(settings.teacher, document, settings.quantization)
    if settings.filter == "sway" and settings.judge is not None and is_self(settings.judge):
        judging_adapter(settings.judge, document)


def _load_teacher(document: Document, settings: SynthSettings) -> Teacher:
    teacher = load_teacher(settings.teacher, document, settings.quantization, settings.concurrency)
    if settings.batch:
        batch_teacher(teacher).check_batches()
    return teacher


def _load_judge(document: Document, settings: SynthSettings) -> Judge:
    return open_judge(document, settings.judge, settings.quantization)


def _budget(settings: SynthSettings) -> Budget:
    return Budget(settings.budget_tokens, settings.max_cost, settings.paid_price)


@dataclass(slots=True)
class _Run:
    settings: SynthSettings
    teacher: Teacher
    ledger: Ledger
    budget: Budget
    outcome: Synthesis
    progress: Progress
    retry_keys: set[str] = field(default_factory=set)  # of requests after an unreadable reply
    waiting: list[PlannedRequest] = field(default_factory=list)
    has_warned_about_usage: bool = False

    def all_waves(self, requests: list[PlannedRequest], funnel: Funnel) -> list[Candidate]:
        """Send requests until the plan is done, enough pairs are kept, or the budget is used up; returns the pairs."""
        kept: list[Candidate] = []
        self.waiting = requests
        while self.waiting and not self._has_enough(kept):
            wave = self._next_wave(kept)
            if not wave:
                unsent = len(self.waiting)
                self.outcome.stopped = f"The limit on cost or tokens was reached: {unsent} requests were not sent."
                break
            self.waiting = self.waiting[len(wave) :]
            new = {planned.request.key for planned in wave if self._from_ledger(planned) is None}
            self.outcome.counts.sent += len(new)
            self.outcome.counts.retried += len(new & self.retry_keys)
            self.outcome.counts.from_ledger += len(wave) - len(new)
            replies = map_over_ranks(wave, self._answers)
            answered = {planned.request.key: (planned, reply) for planned, reply in zip(wave, replies, strict=True)}
            for key in new:
                self._spend(*answered[key])
            accepted = funnel.take(self._parsed(wave, replies))
            kept += self._limited(accepted, kept, funnel)
        for planned in self.waiting:
            if planned.request.key in self.retry_keys:
                self.outcome.counts.unparsed += 1
                reason = "The reply had no readable pairs, and the run ended before the retry."
                self.outcome.failures.append(Failure(planned.section_id, reason))
        return kept

    def _has_enough(self, kept: Sequence[Candidate]) -> bool:
        return self.settings.max_pairs is not None and len(kept) >= self.settings.max_pairs

    def _next_wave(self, kept: Sequence[Candidate]) -> list[PlannedRequest]:
        """As many requests as may be needed, and as the budget allows."""
        wave = self.waiting
        if self.settings.max_pairs is not None:
            subjects = dict.fromkeys(planned.subject for planned in wave)
            wanted = set(islice(subjects, self.settings.max_pairs - len(kept)))
            wave = list(takewhile(lambda planned: planned.subject in wanted, wave))
        new = [planned for planned in wave if self._from_ledger(planned) is None]
        affordable = self.budget.affordable([max_usage(planned.request, self.teacher) for planned in new])
        return wave if affordable == len(new) else wave[: wave.index(new[affordable])]

    def _spend(self, planned: PlannedRequest, reply: Reply) -> None:
        """Count what a reply used, or the most it could have used if the server doesn't report usage."""
        is_reported = reply.error is not None or reply.usage != Usage()
        if not is_reported and not self.has_warned_about_usage:
            self.has_warned_about_usage = True
            logger.warning("%s doesn't report token usage: assuming the maximum.", self.teacher.reference)
        usage = reply.usage if is_reported else max_usage(planned.request, self.teacher)
        self.budget.spend(usage)
        self.outcome.usage += usage

    def _from_ledger(self, planned: PlannedRequest) -> Reply | None:
        return None if self.settings.fresh else self.ledger.get(planned.request.key)

    def _answers(self, wave: Sequence[PlannedRequest]) -> list[Reply]:
        """Replies to this process's part of a wave, from the ledger, or from the teacher and then recorded."""
        answers = {planned.request.key: reply for planned in wave if (reply := self._from_ledger(planned))}
        new = {planned.request.key: planned for planned in wave if planned.request.key not in answers}
        if not (self.settings.batch or self.settings.fresh):
            refuse_batched(self.ledger, new)
        if new:
            self.progress.asked(len(new) + len(self.waiting))
        with closing(self.teacher.generate([planned.request for planned in new.values()])) as replies:
            for reply in replies:
                planned = new[reply.key]
                self.ledger.record(
                    planned.request,
                    reply,
                    teacher=self.teacher.reference,
                    section_id=planned.section_id,
                    strategy=planned.kind or planned.strategy,
                )
                answers[reply.key] = reply
                self.progress.replied(reply, len(new) - len(answers.keys() & new.keys()) + len(self.waiting))
        self.ledger.sync()
        return [answers[planned.request.key] for planned in wave]

    def _parsed(
        self, wave: Sequence[PlannedRequest], replies: Sequence[Reply]
    ) -> list[tuple[PlannedRequest, list[QAPair]]]:
        """The pairs in the replies of a wave.

        An unreadable reply is retried once, in the next wave, and a request that was too long is divided.
        """
        parsed_replies, retries = [], []
        about: dict[tuple[str, str], list[tuple[PlannedRequest, str]]] = {}
        for planned, reply in zip(wave, replies, strict=True):
            if reply.is_too_long and (parts := split(planned, self.settings, self.teacher)):
                self.outcome.counts.divided += 1
                retries += parts
                continue
            if reply.error is not None:
                self.outcome.counts.failed += 1
                self.outcome.failures.append(Failure(planned.section_id, reply.error))
                continue
            if planned.fact:
                about.setdefault(planned.subject, []).append((planned, planned.opening + reply.text))
                continue
            is_truncated = reply.is_truncated or reply.usage.completion_tokens >= planned.request.max_new_tokens
            if planned.kind:
                pairs, problem = parse_views(planned.kind, f"{planned.opening} {reply.text}", is_truncated)
            else:
                pairs, problem = parse_reply(reply.text, is_truncated)
            if pairs:
                parsed_replies.append((planned, pairs))
                continue
            problem = f"{'The reply was cut off. ' if is_truncated else ''}{problem or ''}"
            is_first = planned.request.key not in self.retry_keys
            if is_first and (second := retry(planned, reply.text, problem, self.settings, self.teacher)):
                self.retry_keys.add(second.request.key)
                retries.append(second)
            else:
                self.outcome.counts.unparsed += 1
                self.outcome.failures.append(Failure(planned.section_id, problem))
        self.waiting = retries + self.waiting
        return parsed_replies + [_best_question(requests) for requests in about.values()]

    def _limited(self, accepted: Sequence[Candidate], kept: Sequence[Candidate], funnel: Funnel) -> list[Candidate]:
        """The accepted pairs up to `max_pairs`, taking the first pair of every section before any second one."""
        per_section: Counter[str] = Counter(candidate.section_id for candidate in kept)
        ranked = []
        for candidate in accepted:
            per_section[candidate.section_id] += 1
            ranked.append((per_section[candidate.section_id], candidate))
        ranked.sort(key=lambda item: item[0])
        room = len(ranked) if self.settings.max_pairs is None else self.settings.max_pairs - len(kept)
        for _, candidate in ranked[room:]:
            self.outcome.counts.kept -= 1
            funnel.lose("surplus", candidate, "more than --max-pairs")
        return [candidate for _, candidate in ranked[:room]]


def _best_question(asked: Sequence[tuple[PlannedRequest, str]]) -> tuple[PlannedRequest, list[QAPair]]:
    """The request with the best question about a sentence, and the question with the sentence as its answer.

    In English, the answer leaves out what the question has said.
    """
    fact = asked[0][0].fact
    assert fact is not None
    replies = [(planned.opening, reply) for planned, reply in asked]
    at, question = best(replies, fact)
    answer = shortened(question, fact.sentence) if is_english(asked[at][0].prose) else fact.sentence
    return asked[at][0], [QAPair(question, answer)]
