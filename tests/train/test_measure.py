"""The numbers before and after, where a resumed run asks other questions than the run began with."""

from dlm_trl.train.measure import Numbers, measures, samples

ASKED = {"seen": [("q1", "a1", None), ("q2", "a2", None)], "held-out": [("q3", "a3", None)]}


def numbers(questions: dict, share: float) -> Numbers:
    answers = {group: {question: f"{answer} {share}" for question, answer, _ in q} for group, q in questions.items()}
    return Numbers(1.0, dict.fromkeys(questions, share), dict.fromkeys(questions, share), 9.0, answers)


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
    assert found["exact recall, held-out"] == 0.0
    assert found["exact recall, seen"] is found["fuzzy recall, reworded"] is None
    shown = {(s.group, s.question): s.before for s in samples(more, before, after)}
    assert shown == {
        ("seen", "new"): "–",
        ("seen", "q1"): "a1 0.0",
        ("seen", "q2"): "a2 0.0",
        ("held-out", "q3"): "a3 0.0",
        ("reworded", "r"): "–",
    }
