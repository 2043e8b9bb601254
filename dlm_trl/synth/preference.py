"""From questions to preferences: `prefer(path, SynthSettings(teacher="hf:tiny", temperature=0.8))`.

For each question of the document's pairs, the teacher answers twice: once with the prose that answers it in its prompt,
once without. The judge, which reads the prose, scores both as it scores pairs. The answer with the higher margin is
chosen if it passes the same limits as a pair's answer; the other one is rejected, if the judge finds it clearly worse.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from dlm_trl.models.ranks import map_over_ranks, world_size
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import UsageError
from dlm_trl.synth.budget import Budget, cost_of, max_usage
from dlm_trl.synth.judge import Judge, open_judge
from dlm_trl.synth.ledger import Ledger, now, request_key, run_lock
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.preference_choice import Answered, Lost, Made, candidates_of, choose, unusable
from dlm_trl.synth.preference_questions import Question, questions
from dlm_trl.synth.preference_staging import (
    Preference,
    applied_preferences,
    apply_preferences,
    next_run_id,
    stage_preferences,
    staged_preferences,
)
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.report import Failure, Loss, Synthesis
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.tasks.prompts import open_book
from dlm_trl.teachers.load import inspect_teacher, load_teacher
from dlm_trl.teachers.protocol import Reply, Request, Teacher, TeacherInfo, Usage

PROMPT_VERSION = "preference-1"
MIN_GAP = 0.5  # nats per token by which the judge has to prefer the chosen answer
_CHUNK = 8  # answers that a process judges at once


@dataclass(slots=True)
class PreferenceSynthesis(Synthesis):
    """The outcome of a run: `counts.generated` counts questions with two answers, `counts.kept` preferences.

    preferences: those that are new. skipped: how many questions weren't asked, by reason.
    """

    preferences: list[Preference] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


def prefer(
    path: str | os.PathLike[str],
    settings: SynthSettings,
    min_gap: float = MIN_GAP,
    apply_now: bool = False,
    teacher: Teacher | None = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> PreferenceSynthesis:
    """Have a teacher answer the document's questions twice, and stage the preferences; apply_now writes them, too.

    teacher, judge: already loaded ones. `settings.max_pairs` limits the questions. Under `accelerate launch`, each
    process sends its part of the requests. Raises DlmError before the first request if something is missing.
    """
    document = read(path)
    started = time.monotonic()
    check(document, settings)
    teacher = teacher or load_teacher(settings.teacher, document, settings.quantization, settings.concurrency)
    judge = judge or open_judge(document, settings.judge, settings.quantization)
    outcome = PreferenceSynthesis(Path(path), teacher.reference, judge.name)
    progress = progress or Progress()
    with ExitStack() as locks:
        map_over_ranks(
            [document.frontmatter.dlm_id], lambda ids: [locks.enter_context(run_lock(dlm_id)) for dlm_id in ids]
        )
        document = read(path)  # again, because the run that held the lock may have applied preferences
        ledger, run_id = Ledger(document), next_run_id(document)
        asked = questions(document, outcome.skipped)[: settings.max_pairs]
        map_over_ranks([None], lambda items: items)  # a barrier: every process has read all this before one writes
        outcome.counts.sections = len(asked)
        progress.started(outcome)
        answered = _answered(document, asked, settings, teacher, ledger, outcome, progress)
        made = _judged(answered, settings, min_gap, judge, outcome, progress)
        at = now()
        kept = [
            Preference(
                *texts,
                judge=judge.name,
                chosen_score=scores[0],
                rejected_score=scores[1],
                mined_at=at,
                run_id=run_id,
                adapter=question.adapter,
                teacher=teacher.reference,
                source_section_id=question.section_id,
                request_keys=keys,
            )
            for question, texts, scores, keys in made
        ]
        ((outcome.preferences, outcome.applied),) = map_over_ranks(
            [kept], lambda parts: [_written(document, part, apply_now) for part in parts]
        )
    outcome.cost = cost_of(outcome.usage, settings.price)
    outcome.seconds = time.monotonic() - started
    return outcome


def check(document: Document, settings: SynthSettings) -> None:
    """Raise the DlmError that a run for this document would fail with before its first request."""
    Ledger(document)
    staged_preferences(document)
    applied_preferences(document)
    if not any(section.pairs() for section in document.sections):
        raise UsageError(
            f"{document.path}: the document has no questions to ask.",
            hint="Write some pairs, or have them written: dlm-trl synth instructions.",
        )
    inspect_teacher(settings.teacher, document, settings.quantization)


def requests(
    document: Document, question: Question, settings: SynthSettings, teacher: TeacherInfo
) -> tuple[Request, Request]:
    """The two requests about a question: with the prose and without."""
    prompt = document.frontmatter.system_prompt
    system = [{"role": "system", "content": prompt}] if prompt else []
    contents = (open_book(question.prose, question.text), question.text)
    sampling = (settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed)
    with_prose, without = (
        Request(request_key(teacher, PROMPT_VERSION, messages, *sampling, None), messages, *sampling)
        for messages in ([*system, {"role": "user", "content": content}] for content in contents)
    )
    return with_prose, without


def _answered(
    document: Document,
    asked: Sequence[Question],
    settings: SynthSettings,
    teacher: Teacher,
    ledger: Ledger,
    outcome: PreferenceSynthesis,
    progress: Progress,
) -> list[Answered]:
    """Every question with its two replies, from the ledger or the teacher; as many as the budget allows."""
    planned = [(question, requests(document, question, settings, teacher)) for question in asked]

    def from_ledger(request: Request) -> Reply | None:
        return None if settings.fresh else ledger.get(request.key)

    section_ids = {request.key: question.section_id for question, both in planned for request in both}
    new = [request for _, both in planned for request in both if from_ledger(request) is None]
    budget = Budget(settings.budget_tokens, settings.max_cost, settings.price)
    affordable = budget.affordable([max_usage(request, teacher) for request in new])
    if affordable < len(new):
        outcome.stopped = f"The limit on cost or tokens was reached: {len(new) - affordable} requests were not sent."
    sent = {request.key: request for request in new[:affordable]}
    outcome.counts.sent = len(sent)
    outcome.counts.from_ledger = 2 * len(planned) - len(new)

    def ask(part: Sequence[Request]) -> list[Reply]:
        answers = {}
        progress.asked(len(part))
        with closing(teacher.generate(part)) as replies:
            for reply in replies:
                ledger.record(
                    sent[reply.key],
                    reply,
                    teacher=teacher.reference,
                    section_id=section_ids[reply.key],
                    strategy="preference",
                )
                answers[reply.key] = reply
                progress.replied(reply, len(part) - len(answers))
        ledger.sync()
        return [answers[request.key] for request in part]

    replies: dict[str, Reply] = {reply.key: reply for reply in map_over_ranks(list(sent.values()), ask)}
    for reply in replies.values():
        outcome.usage += reply.usage if reply.usage != Usage() or reply.error else max_usage(sent[reply.key], teacher)
        if reply.error is not None:
            outcome.counts.failed += 1
            outcome.failures.append(Failure(section_ids[reply.key], reply.error))
    result: list[Answered] = []
    for question, both in planned:
        first, second = (replies.get(request.key) or from_ledger(request) for request in both)
        if first and second and first.error is None and second.error is None:
            result.append(Answered(question, both, (first, second)))
    return result


def _judged(
    answered: Sequence[Answered],
    settings: SynthSettings,
    min_gap: float,
    judge: Judge,
    outcome: PreferenceSynthesis,
    progress: Progress,
) -> Iterator[Made]:
    """The preferences among these, in order; the others are counted with their reason."""
    outcome.counts.generated = len(answered)
    remaining = []
    for one in answered:
        if lost := unusable(one):
            _lose(outcome, one.question, lost)
        else:
            remaining.append(one)
    size = max(1, _CHUNK * world_size() // 2)
    for done in range(0, len(remaining), size):
        chunk = remaining[done : done + size]
        progress.judged(2 * done, 2 * len(remaining))
        pairs = [candidates_of(one, outcome.teacher) for one in chunk]
        scores = map_over_ranks([candidate for pair in pairs for candidate in pair], judge.score)
        for k, (one, pair) in enumerate(zip(chunk, pairs, strict=True)):
            found = choose(one.question, pair, (scores[2 * k], scores[2 * k + 1]), settings, min_gap)
            if isinstance(found, Lost):
                _lose(outcome, one.question, found)
            else:
                outcome.counts.kept += 1
                progress.kept(QAPair(found.texts[0], found.texts[1]))
                yield found


def _lose(outcome: PreferenceSynthesis, question: Question, lost: Lost) -> None:
    setattr(outcome.counts, lost.stage, getattr(outcome.counts, lost.stage) + 1)
    outcome.losses.append(Loss(lost.stage, QAPair(question.text, ""), question.section_id, lost.reason))


def _written(document: Document, items: Sequence[Preference], apply_now: bool) -> tuple[list[Preference], int]:
    """Stage these, and apply them at once if asked to; what is new, and how many were applied."""
    new = stage_preferences(document, items)
    if not (apply_now and items and document.path):
        return new, 0
    staged_now = {item.section_id for item in staged_preferences(document)}
    ids = [item.section_id for item in items if item.section_id in staged_now]
    return new, apply_preferences(document.path, ids) if ids else 0
