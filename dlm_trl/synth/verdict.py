"""What a pair's scores have to reach: `limits` sets the least of each, `verdict` names the first that is too low.

    least = limits(candidate)
    failed = verdict(scores, least)      # None: accepted

benchmarks/judge.py measured the defaults; RESULTS.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlm_trl.asking.questions import certainty
from dlm_trl.synth.pairs import Candidate, Scores

THRESHOLD = 0.1  # of the margin, the default of the reference implementation
MIN_GROUNDING = 0.7
MIN_OVERLAP = 0.5
MIN_ENDING = -12.0
MIN_PROSE_GROUNDING = 1.2

# Of the lead, by the certainty of the question: the less of it was written by rule, the more has to speak for it.
MIN_LEADS = (0.0, -0.1, -0.6)


def limits(
    candidate: Candidate,
    threshold: float = THRESHOLD,
    min_grounding: float | None = None,
    min_novelty: float | None = None,
) -> dict[str, float]:
    """The least that each of the candidate's scores may be, by its name, without those that aren't checked."""
    if candidate.is_prose:
        return {"grounding": MIN_PROSE_GROUNDING if min_grounding is None else min_grounding}
    if candidate.fact:
        least = {"lead": MIN_LEADS[certainty(candidate.pair.question, candidate.opening)]}
    else:
        least = {"margin": max(0.0, threshold), "ending": MIN_ENDING}
        if candidate.strategy == "extraction":
            least |= {"grounding": MIN_GROUNDING if min_grounding is None else min_grounding, "overlap": MIN_OVERLAP}
    return least if min_novelty is None else {**least, "novelty": min_novelty}


def verdict(scores: Scores, least: Mapping[str, float]) -> str | None:
    """The name of the first score that is too low, or None. A margin of 0 and NaN are too low; None isn't checked."""
    for name, minimum in least.items():
        value = getattr(scores, name)
        if value is not None and not (value >= minimum and (name != "margin" or value > 0)):
            return name
    return None
