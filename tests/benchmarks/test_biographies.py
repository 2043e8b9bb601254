"""The invented people of `benchmarks/knowledge.py`: what is asked afterwards is never trained, and has one answer."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path

import pytest

# Not by sys.path: benchmarks/awq.py would then be found as autoawq's package.
_SPEC = spec_from_file_location("biographies", Path(__file__).parents[2] / "benchmarks" / "biographies.py")
assert _SPEC and _SPEC.loader
bio = sys.modules["biographies"] = module_from_spec(_SPEC)
_SPEC.loader.exec_module(bio)

PEOPLE = bio.make_people(100, seed=0)


def test_people_are_told_apart() -> None:
    assert len({person.name for person in PEOPLE}) == len({person.facts["dog"] for person in PEOPLE}) == 100
    assert bio.make_people(100, seed=0) == PEOPLE != bio.make_people(100, seed=1)
    with pytest.raises(ValueError, match="but only"):
        bio.make_people(1000, seed=0)


def test_a_fact_has_twenty_distinct_views_that_state_it() -> None:
    for person, attribute in product(PEOPLE[:5], bio.ATTRIBUTES):
        value = person.facts[attribute]
        questions = bio.question_views(person, attribute, 20, seed=0)
        assert len({question for question, _ in questions}) == 20
        assert all(person.name in question and value.lower() in answer.lower() for question, answer in questions)
        texts = bio.prose_views(person, attribute, 20, seed=0) + bio.letter_views(person, attribute, 10, seed=0)
        assert len(set(texts)) == 30
        assert all(person.name in text and value.lower() in text.lower() for text in texts)
        assert bio.question_views(person, attribute, 3, seed=0) == questions[:3], "more views include fewer"
    assert all(value in PEOPLE[0].biography(seed=0) for value in PEOPLE[0].facts.values())


def test_what_is_asked_is_never_trained() -> None:
    asked = bio.test_questions(PEOPLE, seed=0)
    trained = {
        question.removeprefix(f"A question about {person.name}: ")
        for person, attribute in product(PEOPLE, bio.ATTRIBUTES)
        for question, _ in bio.question_views(person, attribute, 20, seed=0)
    }
    trained |= {question for person in PEOPLE for question, _ in bio.reverse_views(person, 5, seed=0)}
    assert len(asked["reworded"]) == 600 and len(asked["reverse"]) == 100
    assert not trained & {question for questions in asked.values() for question, *_ in questions}
    assert len({question for question, *_ in asked["reverse"]}) == 100


def test_a_reverse_question_asks_for_the_only_owner_of_a_dog() -> None:
    for person in PEOPLE:
        views = bio.reverse_views(person, 5, seed=0)
        assert len({question for question, _ in views}) == 5
        assert all(person.facts["dog"] in question and answer == f"{person.name}." for question, answer in views)
    with pytest.raises(ValueError, match="but only"):
        bio.reverse_views(PEOPLE[0], 6, seed=0)
