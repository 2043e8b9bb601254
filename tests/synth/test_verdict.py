"""Which scores a pair has to reach, and which of them fails."""

import math
from dataclasses import replace

import pytest

from dlm_trl.asking.facts import facts
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.verdict import MIN_ENDING, MIN_LEADS, MIN_OVERLAP, limits, verdict

SENTENCE = "Dew is water that forms at night."
GOOD = Scores(margin=1.0, grounding=1.0, overlap=1.0, novelty=0.0, ending=-1.0)


def candidate(strategy: Strategy = "extraction") -> Candidate:
    return Candidate(QAPair("What is dew?", SENTENCE), "0" * 16, strategy, SENTENCE, "k", 0, "hf:tiny")


@pytest.mark.parametrize(
    ("changed", "strategy", "failed"),
    [
        ({}, "extraction", None),
        ({"margin": 0.0}, "extraction", "margin"),
        ({"margin": math.nan}, "extraction", "margin"),
        ({"margin": 0.09}, "extraction", "margin"),
        ({"grounding": 0.79}, "extraction", "grounding"),
        ({"grounding": math.nan}, "extraction", "grounding"),
        ({"grounding": -9.0, "overlap": 0.0}, "expansion", None),
        ({"overlap": MIN_OVERLAP - 0.01}, "extraction", "overlap"),
        ({"ending": MIN_ENDING - 0.01}, "extraction", "ending"),
        ({"ending": MIN_ENDING - 0.01}, "expansion", "ending"),
        ({"ending": None}, "extraction", None),
        ({"novelty": -9.0}, "extraction", None),
    ],
)
def test_the_first_score_that_is_too_low(changed: dict[str, float], strategy: Strategy, failed: str | None) -> None:
    assert verdict(replace(GOOD, **changed), limits(candidate(strategy), 0.1, 0.8)) == failed


def test_a_margin_has_to_be_above_zero_whatever_the_threshold() -> None:
    assert verdict(replace(GOOD, margin=0.0), limits(candidate(), threshold=-1)) == "margin"
    assert verdict(replace(GOOD, margin=0.01), limits(candidate(), threshold=-1)) is None


def test_novelty_is_checked_where_a_minimum_is_given() -> None:
    (fact,) = facts(SENTENCE)
    for asked in (candidate(), candidate("expansion"), replace(candidate(), fact=fact, opening="What is dew")):
        scores = replace(GOOD, lead=1.0)
        assert verdict(scores, limits(asked, min_novelty=-0.5)) is None
        assert verdict(scores, limits(asked, min_novelty=0.5)) == "novelty"


@pytest.mark.parametrize(("opening", "certainty"), [("", 0), ("What is", 1), ("What is dew", 2)])
def test_the_lead_has_to_be_higher_the_less_of_a_question_was_written_by_rule(opening: str, certainty: int) -> None:
    (fact,) = facts(SENTENCE)
    least = limits(replace(candidate(), fact=fact, opening=opening))
    assert least == {"lead": MIN_LEADS[certainty]}
    assert verdict(replace(GOOD, lead=MIN_LEADS[certainty]), least) is None
    assert verdict(replace(GOOD, lead=MIN_LEADS[certainty] - 0.01), least) == "lead"
