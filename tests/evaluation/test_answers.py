"""Answers are scored like SQuAD's script does it, and likewise in other writing systems."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.evaluation.answers import answer_scores, chance_f1, exact_match, normalize, token_f1, tokens


@pytest.mark.parametrize(
    ("answer", "expected", "same", "f1"),
    [
        ("The gas.", "gas", True, 1.0),
        ("  An OPEN\n crumb!", "open crumb", True, 1.0),
        ("theatre", "atre", False, 0.0),  # only whole words are articles
        ("It slows the yeast down.", "slows down yeast", False, 2 * 3 / 7),  # in any order
        ("dough dough dough", "dough", False, 2 * 1 / 4),  # counts as often as both have it
        ("rises", "falls", False, 0.0),
        ("", "gas", False, 0.0),
        ("«Der Teig» geht auf!", "der teig geht auf", True, 1.0),
        ("酵母产生气体。", "酵母产生气体", True, 1.0),
        ("气体", "酵母产生气体", False, 2 * 2 / 8),  # characters
        ("酵母 产生 gas", "酵母产生gas", False, 1.0),  # spaces only matter for exact match
        ("パン生地", "パン", False, 2 * 2 / 6),
        ("ขนมปัง", "ขนม", False, 2 * 3 / 9),
        ("A", "B", False, 0.0),  # normalising would leave nothing
        ("A.", "a", True, 1.0),
        ("+", "-", False, 0.0),
    ],
)
def test_known_answers(answer: str, expected: str, same: bool, f1: float) -> None:
    assert exact_match(answer, expected) is same
    assert token_f1(answer, expected) == pytest.approx(f1)
    assert answer_scores([answer], [expected]) == {"exact_match": same, "f1": pytest.approx(f1)}


@given(st.text(), st.text())
def test_any_two_texts_have_a_score(one: str, other: str) -> None:
    f1 = token_f1(one, other)
    assert 0 <= f1 <= 1
    assert f1 == pytest.approx(token_f1(other, one))
    assert exact_match(one, one) and token_f1(one, one) == 1
    if exact_match(one, other):
        assert f1 == 1
    assert tokens(one) or not one.split()
    assert normalize(one) == " ".join(normalize(one).split())


def test_chance_is_the_f1_with_the_answers_of_other_questions() -> None:
    answers = ["the gas of the yeast", "bran of wheat"]
    assert chance_f1(answers, ["gas of yeast", "bran of wheat"]) == pytest.approx(1 / 3)
    assert chance_f1(answers[:1], answers[:1]) == 0
    rng = random.Random(0)
    shuffled = rng.sample(answers * 5, 10)
    assert 0 < chance_f1(shuffled, answers * 5) < 1


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        answer_scores([], [])
    with pytest.raises(ValueError):
        answer_scores(["one"], ["one", "two"])
