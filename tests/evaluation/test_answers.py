"""Answers are scored as SQuAD's own script scores them, and in other scripts by the same idea."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.evaluation.answers import answer_scores, chance_f1, exact_match, normalize, token_f1, tokens


@pytest.mark.parametrize(
    ("said", "expected", "same", "f1"),
    [
        ("The gas.", "gas", True, 1.0),
        ("  An OPEN\n crumb!", "open crumb", True, 1.0),
        ("theatre", "atre", False, 0.0),  # an article is a word of its own
        ("It slows the yeast down.", "slows down yeast", False, 2 * 3 / 7),  # in any order
        ("dough dough dough", "dough", False, 2 * 1 / 4),  # as often as both have it
        ("rises", "falls", False, 0.0),
        ("", "gas", False, 0.0),
        ("«Der Teig» geht auf!", "der teig geht auf", True, 1.0),
        ("酵母产生气体。", "酵母产生气体", True, 1.0),
        ("气体", "酵母产生气体", False, 2 * 2 / 8),  # characters
        ("酵母 产生 gas", "酵母产生gas", False, 1.0),  # the blank counts for exact match alone
        ("パン生地", "パン", False, 2 * 2 / 6),
        ("ขนมปัง", "ขนม", False, 2 * 3 / 9),
        ("A", "B", False, 0.0),  # nothing would be left of these
        ("A.", "a", True, 1.0),
        ("+", "-", False, 0.0),
    ],
)
def test_known_answers(said: str, expected: str, same: bool, f1: float) -> None:
    assert exact_match(said, expected) is same
    assert token_f1(said, expected) == pytest.approx(f1)
    assert answer_scores([said], [expected]) == {"exact_match": same, "f1": pytest.approx(f1)}


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


def test_chance_is_what_the_answers_of_the_other_questions_give() -> None:
    said = ["the gas of the yeast", "bran of wheat"]
    assert chance_f1(said, ["gas of yeast", "bran of wheat"]) == pytest.approx(1 / 3)
    assert chance_f1(said[:1], said[:1]) == 0
    rng = random.Random(0)
    shuffled = rng.sample(said * 5, 10)
    assert 0 < chance_f1(shuffled, said * 5) < 1


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        answer_scores([], [])
    with pytest.raises(ValueError):
        answer_scores(["one"], ["one", "two"])
