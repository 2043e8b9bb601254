"""Answers that can't be right, by their words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.synth.answers import problem
from dlm_trl.synth.pairs import QAPair

PROSE = "The gauge is read every five minutes, and the file is kept for 2,310 days if the disk is not full."


@pytest.mark.parametrize(
    ("question", "answer", "wrong"),
    [
        ("How often is the gauge read?", "Every five minutes.", None),
        ("How often is the gauge read?", "Every 5 minutes", None),
        ("How long is the file kept?", "For 2310 days.", None),
        ("How long is the file kept?", "For 2.310 days.", None),
        ("How long is the file kept?", "For 2,301 days.", "the text doesn't have this number: 2301"),
        ("Is 7 the number?", "No, 7 is not.", None),
        ("When is the file kept?", "It is kept if the", "the answer is cut off"),
        ("When is the file kept?", "It is kept if the …", "the answer is cut off"),
        ("When is the file kept?", "If the disk is not full,", "the answer is cut off"),
        ("What is the gauge?", "A device that one looks at.", None),
        ("What is the file of the gauge for?", "The file of the gauge is for", "the answer is cut off"),
        ("What does the gauge write to the file?", "The gauge does write the file.", "the answer only repeats"),
        ("Is the gauge read or written?", "Written.", None),
    ],
)
def test_problems(question: str, answer: str, wrong: str | None) -> None:
    found = problem(QAPair(question, answer), PROSE, "extraction")
    assert found is None if wrong is None else found is not None and found.startswith(wrong)


def test_an_answer_may_go_beyond_the_text_and_numbers_are_known_in_english() -> None:
    pair = QAPair("How long is it kept?", "For 99 days.")
    assert problem(pair, PROSE, "expansion") is None
    assert problem(pair, "Die Datei wird neunundneunzig Tage lang aufgehoben.", "extraction") is None


@given(st.text(), st.text(), st.text())
def test_any_pair_has_a_verdict(question: str, answer: str, prose: str) -> None:
    assert isinstance(problem(QAPair(question, answer), prose, "extraction"), str | None)
