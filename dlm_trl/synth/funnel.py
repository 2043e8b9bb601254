"""The way of a reply to accepted pairs: parse, guard, leak check, deduplication, judge. `Funnel(document, …).take(…)`.

`--filter` says how far the way goes: `none` ends behind the guard, `dedup-only` behind the deduplication, `sway` has
the judge as well. Pairs that come together are judged before they are compared with each other, so that a bad one takes
no good one with it. What is lost, and why, goes into the run's `Synthesis`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dlm_trl.models.ranks import map_over_ranks
from dlm_trl.notes import Document
from dlm_trl.rows.split import VALIDATION_FRACTION
from dlm_trl.synth.dedup import Index
from dlm_trl.synth.guard import Refusal, make_safe
from dlm_trl.synth.leak import LeakCheck, validation_questions
from dlm_trl.synth.pairs import Candidate, QAPair
from dlm_trl.synth.plan import Ask
from dlm_trl.synth.report import Loss, Stage, Synthesis
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.staging import Staged, applied

if TYPE_CHECKING:
    from dlm_trl.synth.judge import Judge


_ALIKE = {"pair": "the same as", "question": "the same question as", "words": "{:.0%} the same as"}


class Funnel:
    """Knows the document's pairs, the staged ones and those of this run, so that none comes twice."""

    def __init__(
        self,
        document: Document,
        staged: Sequence[Staged],
        settings: SynthSettings,
        judge: Judge | None,
        outcome: Synthesis,
    ) -> None:
        self._settings, self._judge, self._outcome = settings, judge, outcome
        if settings.filter == "none":
            return
        self._index = Index()
        # What this very request gave before is kept once more: a run that is repeated ends as it did.
        self._own = {(known.request_key, known.pair) for known in [*staged, *applied(document)]}
        for section in document.sections:
            for pair in section.pairs():
                self._index.add(QAPair(pair.question, pair.answer), f"line {pair.line}")
        for known in staged:
            self._index.add(known.pair, f"staged {known.section_id[:8]}")
        seed = document.frontmatter.training.seed
        self._leaks = LeakCheck(validation_questions(document, VALIDATION_FRACTION, seed))

    def take(self, found: Sequence[tuple[Ask, Sequence[QAPair]]]) -> list[Candidate]:
        """The pairs of these replies that pass, in their order, and no more of a reply than were asked for."""
        who = self._outcome.teacher
        candidates = [
            Candidate(pair, ask.section_id, ask.strategy, ask.prose, ask.request.key, i, who, ask.adapter)
            for ask, pairs in found
            for i, pair in enumerate(pairs)
        ]
        self._outcome.counts.generated += len(candidates)
        safe = [written for candidate in candidates if (written := self._guarded(candidate))]
        room = {ask.request.key: ask.n for ask, _ in found}
        if self._settings.filter == "none":
            return [candidate for candidate in safe if self._has_room(candidate, room)]
        new: dict[tuple[str, QAPair], Candidate] = {}
        for candidate in safe:
            if self._is_leak(candidate) or self._is_repeat(candidate):
                continue
            if new.setdefault((candidate.request_key, candidate.pair), candidate) is not candidate:
                self.lose("duplicate", candidate, "twice in one reply")
        kept = []
        # Only now with each other: where an answer was wrong, another one to the same question may be right.
        for candidate in self._judged([*new.values()]):
            if not self._is_repeat(candidate) and self._has_room(candidate, room):
                self._index.add(candidate.pair, f"{candidate.pair.question!r} of this run")
                kept.append(candidate)
        return kept

    def lose(self, stage: Stage, candidate: Candidate, reason: str) -> None:
        """Counts and keeps a loss."""
        counts = self._outcome.counts
        setattr(counts, stage, getattr(counts, stage) + 1)
        self._outcome.losses.append(Loss(stage, candidate.pair, candidate.section_id, reason))

    def _guarded(self, candidate: Candidate) -> Candidate | None:
        safe = make_safe(candidate.pair)
        if isinstance(safe, Refusal):
            self.lose("guard", candidate, safe.reason)
            return None
        return replace(candidate, pair=safe)

    def _is_leak(self, candidate: Candidate) -> bool:
        repeated = None if self._is_own(candidate) else self._leaks.leaks(candidate.pair.question)
        if repeated:
            self.lose("leak", candidate, f"repeats a validation row: {repeated}")
        return bool(repeated)

    def _is_own(self, candidate: Candidate) -> bool:
        return (candidate.request_key, candidate.pair) in self._own

    def _is_repeat(self, candidate: Candidate) -> bool:
        # What is known by its own request is no repeat of itself.
        match = None if self._is_own(candidate) else self._index.nearest(candidate.pair)
        if match:
            self.lose("duplicate", candidate, f"{_ALIKE[match.same].format(match.score)} {match.name}")
        return match is not None

    def _has_room(self, candidate: Candidate, room: dict[str, int]) -> bool:
        """Whether its request asked for one more; room is what is left of each request."""
        room[candidate.request_key] -= 1
        if room[candidate.request_key] < 0:
            self.lose("surplus", candidate, "more than were asked for")
        return room[candidate.request_key] >= 0

    def _judged(self, candidates: list[Candidate]) -> list[Candidate]:
        """Those that the judge lets pass, with their scores."""
        if self._judge is None:
            return candidates
        from dlm_trl.synth.judge import MIN_GROUNDING, verdict

        least = MIN_GROUNDING if self._settings.min_grounding is None else self._settings.min_grounding
        kept = []
        for candidate, scores in zip(candidates, map_over_ranks(candidates, self._judge.score), strict=True):
            reason = verdict(scores, candidate.strategy, self._settings.threshold, least)
            if reason is None:
                kept.append(replace(candidate, scores=scores))
            elif reason == "grounding":
                self.lose(reason, candidate, f"grounding {scores.grounding:.2f} of at least {least:.2f}")
            elif reason == "threshold":
                self.lose(reason, candidate, f"margin {scores.margin:.2f} of at least {self._settings.threshold:.2f}")
            elif scores.margin == -math.inf:
                self.lose(reason, candidate, "too long for the judge to read it with any of the prose")
            else:
                self.lose(reason, candidate, f"margin {scores.margin:.2f}, not above 0")
        return kept
