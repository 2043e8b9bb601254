"""The numbers before and after, where a resumed run asks other questions than the run began with."""

import json
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from dlm_trl.train.measure import Answered, Numbers, measures, samples

ASKED = {"seen": [("q1", "a1", None), ("q2", "a2", None)], "held-out": [("q3", "a3", None)]}


def numbers(questions: dict, share: float) -> Numbers:
    answers = {group: {question: f"{answer} {share}" for question, answer, _ in q} for group, q in questions.items()}
    shares = {"exact match": share, "F1": share}
    return Numbers(1.0, 9.0, Answered(dict.fromkeys(questions, shares), answers))


def test_the_same_questions_have_numbers_and_answers_of_both_times() -> None:
    before, after = numbers(ASKED, 0.0), numbers(ASKED, 0.5)
    shares = [(m.before, m.after) for m in measures(before, after) if m.unit == "share"]
    assert shares == [(0.0, 0.5)] * 4
    assert next((s.before, s.after) for s in samples(ASKED, before, after)) == ("a1 0.0", "a1 0.5")
    assert {m.before for m in measures(None, after)} == {None}
    assert {s.before for s in samples(ASKED, None, after)} == {"–"}


def test_questions_that_came_later_have_none_before() -> None:
    more = ASKED | {"seen": [("new", "a0", None), *ASKED["seen"]], "reworded": [("r", "a1", None)]}
    before, after = numbers(ASKED, 0.0), numbers(more, 0.5)
    found = {m.name: m.before for m in measures(before, after)}
    assert found["exact match, held-out"] == 0.0
    assert found["exact match, seen"] is found["F1, reworded"] is None
    shown = {(s.group, s.question): s.before for s in samples(more, before, after)}
    assert shown == {
        ("seen", "new"): "–",
        ("seen", "q1"): "a1 0.0",
        ("seen", "q2"): "a2 0.0",
        ("held-out", "q3"): "a3 0.0",
        ("reworded", "r"): "–",
    }


def test_the_open_book_stands_beside_the_questions_that_were_asked_with_it() -> None:
    before, after = numbers(ASKED, 0.0), numbers(ASKED, 0.5)
    assert {m.open_book for m in measures(before, after)} == {None}
    before = replace(before, open_book=numbers(ASKED, 0.25).recall)
    found = {m.name: m.open_book for m in measures(before, after)}
    assert found == {
        "validation loss": None,
        "exact match, seen": 0.25,
        "exact match, held-out": 0.25,
        "F1, seen": 0.25,
        "F1, held-out": 0.25,
        "perplexity, general text": None,
    }
    assert samples(ASKED, before, after)[0].open_book == "a1 0.25"

    more = ASKED | {"seen": [("new", "a0", None), *ASKED["seen"]]}
    found = {m.name: m.open_book for m in measures(before, numbers(more, 0.5))}
    assert (found["F1, seen"], found["F1, held-out"]) == (None, 0.25)
    assert samples(more, before, numbers(more, 0.5))[0].open_book == "–"


def test_what_was_measured_before_is_read_again_as_it_was() -> None:
    before = replace(numbers(ASKED, 0.1), validation_loss=None, perplexity=float("inf"))
    for said in (before, replace(before, open_book=numbers(ASKED, 0.25).recall)):
        assert TypeAdapter(Numbers).validate_json(json.dumps(asdict(said))) == said
