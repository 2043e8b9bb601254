"""Numbers before and after, also when a resumed run asks other questions than it started with."""

import json
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from dlm_trl.evaluation.notes_score import Answered
from dlm_trl.evaluation.spec import NotesQuestions
from dlm_trl.train.measure import Numbers, measures, samples

QUESTIONS = NotesQuestions({"seen": [("q1", "a1", None), ("q2", "a2", None)], "held-out": [("q3", "a3", None)]})


def numbers(questions: NotesQuestions, share: float) -> Numbers:
    every = questions.every()
    answers = {group: {question: f"{answer} {share}" for question, answer, _ in q} for group, q in every.items()}
    shares = {"exact match": share, "F1": share}
    return Numbers(1.0, 9.0, Answered(dict.fromkeys(every, shares), answers))


def with_seen(*questions: str, **more: list) -> NotesQuestions:
    """QUESTIONS with other questions in the group `seen`, and more groups."""
    return replace(QUESTIONS, groups={**QUESTIONS.groups, "seen": [(q, "a", None) for q in questions], **more})


def test_the_same_questions_have_numbers_and_answers_from_before_and_after() -> None:
    before, after = numbers(QUESTIONS, 0.0), numbers(QUESTIONS, 0.5)
    shares = [(m.before, m.after) for m in measures(before, after, QUESTIONS) if m.unit == "share"]
    assert shares == [(0.0, 0.5)] * 4
    assert next((s.before, s.after) for s in samples(QUESTIONS, before, after)) == ("a1 0.0", "a1 0.5")
    assert {m.before for m in measures(None, after, QUESTIONS)} == {None}
    assert {s.before for s in samples(QUESTIONS, None, after)} == {"–"}


def test_questions_added_on_resuming_have_no_number_before() -> None:
    more = with_seen("new", "q1", "q2", reworded=[("r", "a1", None)])
    before, after = numbers(QUESTIONS, 0.0), numbers(more, 0.5)
    values = {m.name: m.before for m in measures(before, after, more)}
    assert values["exact match, held-out"] == 0.0
    assert values["exact match, seen"] is values["F1, reworded"] is None
    shown = {(s.group, s.question): s.before for s in samples(more, before, after)}
    assert shown == {
        ("seen", "new"): "–",
        ("seen", "q1"): "a1 0.0",
        ("seen", "q2"): "a2 0.0",
        ("held-out", "q3"): "a3 0.0",
        ("reworded", "r"): "–",
    }


def test_open_book_numbers_are_shown_for_questions_that_were_asked_with_the_notes() -> None:
    before, after = numbers(QUESTIONS, 0.0), numbers(QUESTIONS, 0.5)
    assert {m.open_book for m in measures(before, after, QUESTIONS)} == {None}
    before = replace(before, open_book=numbers(QUESTIONS, 0.25).recall)
    values = {m.name: m.open_book for m in measures(before, after, QUESTIONS)}
    assert values == {
        "validation loss": None,
        "exact match, seen": 0.25,
        "exact match, held-out": 0.25,
        "F1, seen": 0.25,
        "F1, held-out": 0.25,
        "share of open book": None,
        "perplexity, general text": None,
    }
    assert samples(QUESTIONS, before, after)[0].open_book == "a1 0.25"

    more = with_seen("new", "q1", "q2")
    values = {m.name: m.open_book for m in measures(before, numbers(more, 0.5), more)}
    assert (values["F1, seen"], values["F1, held-out"]) == (None, 0.25)
    assert samples(more, before, numbers(more, 0.5))[0].open_book == "–"


def test_numbers_survive_json() -> None:
    before = replace(numbers(QUESTIONS, 0.1), validation_loss=None, perplexity=float("inf"))
    for saved in (before, replace(before, open_book=numbers(QUESTIONS, 0.25).recall)):
        assert TypeAdapter(Numbers).validate_json(json.dumps(asdict(saved))) == saved


def test_choices_and_inventions_have_intervals_and_the_open_book_share_says_what_it_compares() -> None:
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    asked = {group: [(f"{group} {word}?", word, None) for word in words] for group in ("seen", "reverse")}
    questions = NotesQuestions(asked, traps=[("trap?", "The notes don't say.", None)])

    def answered(right: int) -> Answered:
        answers = {
            g: {q: a if n < right else "bread" for n, (q, a, _) in enumerate(every)} for g, every in asked.items()
        }
        shares = {group: {"F1": right / 8, "multiple choice": right / 8} for group in asked}
        return Answered(shares | {"traps": {"inventions": 1.0}}, answers | {"traps": {"trap?": "In 1871."}})

    before, after = Numbers(None, 9.0, answered(1), answered(4)), Numbers(None, 9.0, answered(2))
    named = {measure.name: measure for measure in measures(before, after, questions)}
    chosen, traps, share = (named[n] for n in ("multiple choice, reverse", "inventions, traps", "share of open book"))
    assert (chosen.before, chosen.open_book, chosen.after, chosen.questions) == (0.125, 0.5, 0.25, 8)
    assert 0.05 < chosen.low < 0.25 < chosen.high < 0.65
    assert (traps.before, traps.open_book, traps.after, traps.questions) == (1.0, 1.0, 1.0, 1) and traps.low < 0.3
    assert (share.before, share.after, share.questions) == (0.25, 0.5, 8), "the trained group doesn't count"
    assert share.low < 0.5 < share.high and "reverse" in share.note and "seen" not in share.note
    assert named["F1, seen"].low is None

    alone = {measure.name for measure in measures(None, after, questions)}
    assert "share of open book" not in alone and "inventions, traps" in alone
