"""The way of a reply to accepted pairs: parse, guard, leak check, deduplication, judge. `Funnel(document, …).take(…)`.

`--filter` says how far the way goes: `none` ends behind the guard, `dedup-only` behind the deduplication, `sway` has
the judge as well. What is lost, and why, goes into the run's `Synthesis`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dlm_trl.models.share import share
from dlm_trl.notes import Document
from dlm_trl.rows.split import VALIDATION_FRACTION
from dlm_trl.synth.dedup import Index
from dlm_trl.synth.guard import Refusal, make_safe
from dlm_trl.synth.leak import LeakCheck, validation_questions
from dlm_trl.synth.pairs import Candidate, Pair
from dlm_trl.synth.plan import Ask, Settings
from dlm_trl.synth.report import Loss, Stage, Synthesis
from dlm_trl.synth.staging import Staged, applied

if TYPE_CHECKING:
    from dlm_trl.synth.judge import Judge


class Funnel:
    """Knows the document's pairs, the staged ones and those of this run, so that none comes twice."""

    def __init__(
        self, document: Document, staged: Sequence[Staged], settings: Settings, judge: Judge | None, outcome: Synthesis
    ) -> None:
        self._settings, self._judge, self._outcome = settings, judge, outcome
        if settings.filter == "none":
            return
        self._index = Index()
        # What this very request gave before is kept once more: a run that is repeated ends as it did.
        self._own = {(known.request_key, known.pair) for known in [*staged, *applied(document)]}
        for section in document.sections:
            for pair in section.pairs():
                self._index.add(Pair(pair.question, pair.answer), f"line {pair.line}")
        for known in staged:
            self._index.add(known.pair, f"staged {known.section_id[:8]}")
        seed = document.frontmatter.training.seed
        self._leaks = LeakCheck(validation_questions(document, VALIDATION_FRACTION, seed))

    def take(self, found: Sequence[tuple[Ask, Sequence[Pair]]]) -> list[Candidate]:
        """The pairs of these replies that pass, in their order."""
        candidates = [
            Candidate(pair, ask.section_id, ask.strategy, ask.prose, ask.request.key, index, self._outcome.teacher)
            for ask, pairs in found
            for index, pair in enumerate(pairs)
        ]
        self._outcome.counts.generated += len(candidates)
        candidates = [safe for candidate in candidates if (safe := self._guarded(candidate))]
        if self._settings.filter != "none":
            candidates = [candidate for candidate in candidates if self._is_new(candidate)]
        if self._judge is not None:
            candidates = self._judged(candidates, self._judge)
        return candidates

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

    def _is_new(self, candidate: Candidate) -> bool:
        own = (candidate.request_key, candidate.pair)
        if own in self._own:
            self._own.remove(own)  # a reply that says it twice does so in vain, as the first time
            return True
        if repeated := self._leaks.leaks(candidate.pair.question):
            self.lose("leak", candidate, f"repeats a validation row: {repeated}")
            return False
        if match := self._index.nearest(candidate.pair):
            near = "the same as" if match.exact else f"{match.score:.0%} the same as"
            self.lose("duplicate", candidate, f"{near} {match.name}")
            return False
        self._index.add(candidate.pair, f"{candidate.pair.question!r} of this run")
        return True

    def _judged(self, candidates: list[Candidate], judge: Judge) -> list[Candidate]:
        from dlm_trl.synth.judge import MIN_GROUNDING, verdict

        least = MIN_GROUNDING if self._settings.min_grounding is None else self._settings.min_grounding
        kept = []
        for candidate, scores in zip(candidates, share(candidates, judge.score), strict=True):
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
