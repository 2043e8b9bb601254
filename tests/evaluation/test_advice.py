"""What the numbers suggest: each rule applies where it should, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.evaluation.advice import MISSED, MOST, advise, missed
from dlm_trl.evaluation.numbers import Measure
from dlm_trl.evaluation.spec import NotesQuestions, Place

GOOD = {"seen": 0.98, "reworded": 0.8, "held-out": 0.7, "reverse": 0.7}


def measures(
    f1: dict[str, float] = GOOD,
    open_book: float | None = 0.6,
    traps: tuple[float | None, float] = (0.4, 0.3),
    perplexity: tuple[float | None, float] = (40.0, 41.0),
) -> list[Measure]:
    return [
        *(Measure(f"F1, {g}", "share", 0.1, value, open_book, group=g, questions=20) for g, value in f1.items()),
        Measure("inventions, traps", "share", *traps, group="traps"),
        Measure("perplexity, general text", "per token", *perplexity),
    ]


def test_a_good_run_needs_nothing() -> None:
    assert advise(measures()) == ["No rule asks for a change: the model answers most questions and forgot little."]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (measures(GOOD | {"seen": 0.5, "reworded": 0.6}), "train more epochs, or raise the learning rate or the rank"),
        (measures(GOOD | {"reworded": 0.5}), "more views of each fact written with dlm-trl synth views"),
        (measures(GOOD | {"reverse": 0.4}), "misses reverse questions (F1 40.0%): add pairs"),
        (measures(GOOD | {"reverse": 0.4, "held-out": 0.5}), "held-out questions (F1 50.0%) and reverse questions"),
        (measures(open_book=0.95), "With the notes in its prompt the base answers better (F1 95.0% against 73.3%"),
        (measures(perplexity=(40.0, 60.0)), "rose by 50%: set rehearsal to 5, or double it"),
        (
            measures(traps=(0.2, 0.45)),
            "makes up an answer to 45.0% of the questions that the notes don't answer (20.0%",
        ),
        (measures(traps=(0.9, 0.8)), "add pairs that say what the notes don't cover"),
        (measures(traps=(None, 0.8)), "don't answer: add pairs"),
    ],
)
def test_each_rule(found: list[Measure], words: str) -> None:
    (sentence,) = advise(found)
    assert words in sentence


@pytest.mark.parametrize(
    "found",
    [
        measures(perplexity=(40.0, 43.9)),
        measures(perplexity=(None, 60.0)),
        measures(traps=(0.4, 0.45)),
        measures(open_book=0.8),
        measures(open_book=None),
        measures({"seen": 0.98}),
    ],
)
def test_small_differences_and_missing_numbers_ask_for_nothing(found: list[Measure]) -> None:
    assert "No rule" in advise(found)[0]


def test_unlearned_pairs_come_first_and_three_sentences_are_the_most() -> None:
    bad = measures(dict.fromkeys(GOOD, 0.1), 0.7, (0.1, 1.0), (40.0, 80.0))
    sentences = advise(bad)
    assert len(sentences) == MOST
    assert "trained pairs" in sentences[0] and "prompt" in sentences[1] and "perplexity" in sentences[2]
    assert advise([Measure("mcsb/5:upper/accuracy", "share", 0.2, 0.9)]) == []


SHARE = st.one_of(st.none(), st.floats(0, 1))


@given(st.lists(SHARE, min_size=4, max_size=4), SHARE, SHARE, SHARE, SHARE, st.floats(1, 1e9) | st.just(float("nan")))
def test_any_numbers_give_one_to_three_sentences(f1, opened, before, after, low, perplexity) -> None:
    found = [Measure(f"F1, {g}", "share", low, value, opened) for g, value in zip(GOOD, f1, strict=True)]
    found += [
        Measure("inventions, traps", "share", before, after),
        Measure("perplexity, general text", "per token", perplexity, 50.0),
    ]
    assert 1 <= len(advise(found)) <= MOST


def test_missed_questions_are_those_with_a_low_f1_and_know_their_lines() -> None:
    questions = NotesQuestions(
        {
            "seen": [("q1", "about a week", None), ("q2", "the gas of the yeast", None)],
            "reverse": [("q3", "hooch", None), ("q4", "a boule", None)],
        },
        traps=[("q5", "The notes don't say.", None)],
        places={"seen": {"q2": Place("notes.dlm", 7)}, "reverse": {"q3": Place("questions.jsonl", 3)}},
    )
    answers = {
        "seen": {"q1": "About a week.", "q2": "the yeast"},
        "reverse": {"q3": "vinegar", "q4": "bread"},
        "traps": {"q5": "In 1871."},
    }
    found = missed(questions, answers)
    assert [(one.group, one.question, one.file, one.line) for one in found] == [
        ("seen", "q2", "notes.dlm", 7),
        ("reverse", "q3", "questions.jsonl", 3),
        ("reverse", "q4", None, None),
    ]
    assert found[0].f1 == pytest.approx(0.5) and found[0].f1 < MISSED
    assert (found[0].answer, found[0].said) == ("the gas of the yeast", "the yeast")
