"""From replies to accepted pairs and prose views: `Funnel(document, …).take(parsed)`.

Guard, question, echo and leak checks, deduplication, judge. A prose view has its own check in place of the first two,
and is compared with the sentences of the document and the other prose views.

`--filter` sets how far a pair has to get: `none` stops after the guard, `dedup-only` after deduplication, `sway` adds
the judge. The pairs of a wave are judged before they are compared with each other, so a bad pair never displaces a
good one as its duplicate. Rejected pairs and the reasons go into the run's `Synthesis`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dlm_trl.asking import questions
from dlm_trl.asking.facts import facts
from dlm_trl.models.ranks import map_over_ranks, world_size
from dlm_trl.notes import Document
from dlm_trl.rows.split import VALIDATION_FRACTION
from dlm_trl.rows.views import ProseView
from dlm_trl.synth import answers, prompts, prose_views
from dlm_trl.synth.dedup import Index
from dlm_trl.synth.echo import EchoCheck
from dlm_trl.synth.guard import Refusal, make_safe
from dlm_trl.synth.leak import LeakCheck, validation_questions
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.plan import PlannedRequest
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.report import Loss, Stage, Synthesis
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.staging import Staged, applied
from dlm_trl.synth.verdict import limits, verdict
from dlm_trl.synth.view_prompts import examples

if TYPE_CHECKING:
    from dlm_trl.synth.judge import Judge


_SIMILARITY = {
    "pair": "the same as another pair",
    "question": "the same question as another pair",
    "words": "nearly the same as another pair",
}
# The stage in which a pair is lost whose score of this name is too low.
_STAGES: dict[str, Stage] = {
    "margin": "threshold",
    "lead": "judge",
    "grounding": "grounding",
    "overlap": "grounding",
    "novelty": "novelty",
    "ending": "ending",
}
_CHUNK = 8  # pairs that a process judges at once; fewer take longer, more show less often how far the judge is


class Funnel:
    """Filters the pairs of a run against the document, the staged pairs and each other."""

    def __init__(
        self,
        document: Document,
        staged: Sequence[Staged],
        settings: SynthSettings,
        judge: Judge | None,
        outcome: Synthesis,
        progress: Progress | None = None,
        gone: Collection[str] = (),
        texts: Sequence[ProseView] = (),
    ) -> None:
        """gone: ids of pairs whose sentence is gone; a new pair may ask the same. texts: the prose views there are."""
        self._settings, self._judge, self._outcome = settings, judge, outcome
        self.rejected: list[tuple[Candidate, Loss]] = []
        self._progress = progress or Progress()
        if settings.filter == "none":
            return
        self._index = Index()
        self._texts = Index()  # of pairs with an empty question, which are compared by their answers
        # A repeated run must end like the first, so a pair isn't a duplicate of itself from the same request.
        self._from_request = {(known.request_key, known.pair) for known in [*staged, *applied(document)]}
        for section in document.sections:
            for pair in section.pairs() if section.bare_id not in gone else ():
                self._index.add(QAPair(pair.question, pair.answer), f"line {pair.line}")
        for known in staged:
            if known.section_id not in gone:
                self._index.add(known.pair, f"staged {known.section_id[:8]}")
        for known in [*staged, *applied(document)]:
            if known.edited_from and known.section_id not in gone:
                self._index.add(known.edited_from, f"{known.section_id[:8]}, before it was edited")
        if settings.views is not None:
            for section in document.sections:
                for fact in facts(section.content) if section.kind == "prose" else ():
                    self._texts.add(_text(fact.sentence), f"the sentence {fact.sentence!r}")
            for text in texts:
                self._texts.add(_text(text.text), f"{text.text!r}")
                self._from_request.add((text.request_key, QAPair("", text.text)))
        seed = document.frontmatter.training.seed
        self._leaks = LeakCheck(validation_questions(document, VALIDATION_FRACTION, seed))
        own = prompts.own_prompt(settings.prompt)
        templates = {strategy: own.template if own else template for strategy, template in prompts.TEMPLATES.items()}
        self._echoes: dict[str, EchoCheck] = {name: EchoCheck(template) for name, template in templates.items()}
        self._echoes |= {kind: EchoCheck(examples(kind)) for kind in settings.kinds}

    def take(self, parsed: Sequence[tuple[PlannedRequest, Sequence[QAPair]]]) -> list[Candidate]:
        """The pairs of these replies that pass, in order; of each reply at most as many as were requested."""
        teacher = self._outcome.teacher
        candidates = [
            Candidate(
                pair,
                planned.section_id,
                planned.strategy,
                planned.prose,
                planned.request.key,
                i,
                teacher,
                planned.adapter,
                fact=planned.fact,
                opening=planned.opening,
                kind=planned.kind,
                about=planned.about,
            )
            for planned, pairs in parsed
            for i, pair in enumerate(pairs)
        ]
        self._outcome.counts.generated += len(candidates)
        safe = [guarded for candidate in candidates if (guarded := self._guarded(candidate))]
        remaining = {planned.request.key: planned.n for planned, _ in parsed}
        if self._settings.filter == "none":
            return [self._keep(candidate) for candidate in safe if self._is_within_request(candidate, remaining)]
        new: dict[tuple[str, QAPair], Candidate] = {}
        for candidate in safe:
            if (
                self._has_problem(candidate)
                or self._is_echo(candidate)
                or self._is_leak(candidate)
                or self._is_duplicate(candidate)
            ):
                continue
            if new.setdefault((candidate.request_key, candidate.pair), candidate) is not candidate:
                self.lose("duplicate", candidate, "twice in one reply")
        kept = []
        # Compared with each other only now: if one answer is wrong, another one to the same question may be right.
        for candidate in self._judged([*new.values()]):
            if not self._is_duplicate(candidate) and self._is_within_request(candidate, remaining):
                index, pair = self._compared(candidate)
                index.add(pair, f"{candidate.pair.shown!r} of this run")
                kept.append(self._keep(candidate))
        return kept

    def _keep(self, candidate: Candidate) -> Candidate:
        self._outcome.counts.kept += 1
        self._progress.kept(candidate.pair)
        return candidate

    def lose(self, stage: Stage, candidate: Candidate, reason: str) -> None:
        """Count and record a rejected pair."""
        counts = self._outcome.counts
        setattr(counts, stage, getattr(counts, stage) + 1)
        loss = Loss(stage, candidate.pair, candidate.section_id, reason)
        self._outcome.losses.append(loss)
        self.rejected.append((candidate, loss))

    def _guarded(self, candidate: Candidate) -> Candidate | None:
        if candidate.is_prose:
            return candidate  # never written into the file
        safe = make_safe(candidate.pair)
        if isinstance(safe, Refusal):
            self.lose("guard", candidate, safe.reason)
            return None
        return replace(candidate, pair=safe)

    def _has_problem(self, candidate: Candidate) -> bool:
        """Whether the question can't be asked, or the answer can't be right, by their words."""
        pair, fact = candidate.pair, candidate.fact
        if candidate.kind and candidate.is_prose:
            wrong = prose_views.problem(candidate.kind, pair.answer, candidate.prose)
            if wrong:
                self.lose("prose", candidate, wrong)
            return wrong is not None
        if fact:
            wrong = questions.problem(pair.question, fact, candidate.opening)
        else:
            needs_text = questions.needs_text(pair.question) or (
                candidate.kind and prose_views.names_text(pair.question)
            )
            wrong = "not understood without the text" if needs_text else None
        if wrong:
            self.lose("question", candidate, wrong)
            return True
        if not fact:
            wrong = answers.problem(pair, candidate.prose, candidate.strategy)
        if candidate.kind:
            wrong = wrong or answers.view_problem(candidate.kind, pair, candidate.prose, candidate.about)
        if wrong:
            self.lose("answer", candidate, wrong)
        return wrong is not None

    def _is_echo(self, candidate: Candidate) -> bool:
        pair = _text(candidate.pair.answer) if candidate.is_prose else candidate.pair
        repeated = self._echoes[candidate.kind or candidate.strategy].echoes(pair, candidate.prose)
        if repeated:
            self.lose("echo", candidate, repeated)
        return bool(repeated)

    def _is_leak(self, candidate: Candidate) -> bool:
        is_compared = not (candidate.is_prose or self._is_known_from_request(candidate))
        repeated = None if not is_compared else self._leaks.leaks(candidate.pair.question)
        if repeated:
            self.lose("leak", candidate, f"repeats a validation row: {repeated}")
        return bool(repeated)

    def _is_known_from_request(self, candidate: Candidate) -> bool:
        return (candidate.request_key, candidate.pair) in self._from_request

    def _is_duplicate(self, candidate: Candidate) -> bool:
        index, pair = self._compared(candidate)
        match = None if self._is_known_from_request(candidate) else index.nearest(pair)
        if match:
            score = f" ({match.score:.0%})" if match.same == "words" else ""
            same = "nearly the same as" if candidate.is_prose else _SIMILARITY[match.same]
            self.lose("duplicate", candidate, f"{same}: {match.name}{score}")
        return match is not None

    def _compared(self, candidate: Candidate) -> tuple[Index, QAPair]:
        """What a candidate is compared with, and as which pair."""
        return (self._texts, _text(candidate.pair.answer)) if candidate.is_prose else (self._index, _whole(candidate))

    def _is_within_request(self, candidate: Candidate, remaining: dict[str, int]) -> bool:
        """Whether the candidate's request asked for one more pair; updates `remaining`, which is by request key."""
        remaining[candidate.request_key] -= 1
        if remaining[candidate.request_key] < 0:
            self.lose("surplus", candidate, "more pairs than requested")
        return remaining[candidate.request_key] >= 0

    def _judged(self, candidates: list[Candidate]) -> Iterator[Candidate]:
        """The candidates that pass the judge, with their scores, as soon as they are judged."""
        if self._judge is None:
            yield from candidates
            return
        settings, size = self._settings, _CHUNK * world_size()
        for done in range(0, len(candidates), size):
            chunk = candidates[done : done + size]
            self._progress.judged(done, len(candidates))
            for candidate, scores in zip(chunk, map_over_ranks(chunk, self._judge.score), strict=True):
                least = limits(candidate, settings.threshold, settings.min_grounding, settings.min_novelty)
                if failed := verdict(scores, least):
                    stage = "judge" if not scores.margin > 0 and failed == "margin" else _STAGES[failed]
                    self.lose(stage, replace(candidate, scores=scores, limits=least), _reason(failed, scores, least))
                else:
                    yield replace(candidate, scores=scores, limits=least)
        self._progress.judged(len(candidates), len(candidates))


def _text(text: str) -> QAPair:
    """A text as a pair to compare: two are the same if at most one word in eight differs."""
    return QAPair(text, "")


def _whole(candidate: Candidate) -> QAPair:
    """The pair with its whole sentence as the answer; shortened, those of different questions can be the same."""
    return candidate.pair._replace(answer=candidate.fact.sentence) if candidate.fact else candidate.pair


def _reason(failed: str, scores: Scores, least: Mapping[str, float]) -> str:
    """Why a pair is rejected whose score of this name is too low."""
    if failed == "lead":
        if scores.runner_up is not None:
            return f"another sentence answers it as well: {scores.runner_up}"
        return f"the question doesn't make its answer likelier: lead {scores.lead:.2f}"
    if scores.margin == -math.inf:
        return "too long for the judge to read together with any of the prose"
    if failed == "margin" and not scores.margin > 0:
        return f"margin not above 0: {scores.margin:.2f}"
    if failed == "ending":
        return f"the answer seems cut off: ending {scores.ending:.1f}"
    return f"{failed} below {least[failed]:.2f}: {getattr(scores, failed):.2f}"
