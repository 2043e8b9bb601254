"""Answers that can't be right, by their words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.synth.answers import problem, shortened
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


@pytest.mark.parametrize(
    ("question", "sentence", "answer"),
    [
        ("What is a lame?", "A lame is a thin blade.", "A thin blade."),
        ("What is rye flour?", "Rye flour is flour of rye.", "Flour of rye."),
        ("What is a dark liquid on top called?", "A dark liquid on top is called hooch.", "Hooch."),
        ("What does code 3 mean?", "Code 3 means that the port is closed.", "The port is closed."),
        ("What does fixer remove?", "Fixer removes the silver.", "The silver."),
        ("How many sheets does a litre develop?", "A litre develops about 30 sheets.", "About 30 sheets."),
        ("When does the ferry stop?", "The ferry stops when the river is high.", "When the river is high."),
        ("What does the loaf lie in?", "The loaf lies in a banneton.", "A banneton."),
        ("Where should you keep bread?", "Keep bread in a paper bag.", "In a paper bag."),
        ("Why does wool keep you warm?", "Wool keeps you warm, because it holds air.", "Because it holds air."),
        ("What should you do if you are ill?", "If you are ill, write to Jo.", "Write to Jo."),
        # Nothing is left, the verb would be first, or the sentence says it in another order.
        ("What is a lame?", "A lame is a lame.", "A lame."),
        ("When did electric light come?", "Electric light came in 1948.", "Electric light came in 1948."),
        ("What does steam do to the skin?", "Steam keeps the skin soft.", "Steam keeps the skin soft."),
        ("What happens to logs?", "Logs are deleted.", "Logs are deleted."),
        ("What should you look at?", "Look at and not away.", "Look at and not away."),
        ("Why does the dough rise later?", "Salt slows it, so it rises later.", "Salt slows it, so it rises later."),
    ],
)
def test_short_answers(question: str, sentence: str, answer: str) -> None:
    assert shortened(question, sentence) == answer


@given(st.text("a is the.,'What does "), st.text("A is the.,'loaf makes "))
def test_a_short_answer_ends_as_its_sentence(question: str, sentence: str) -> None:
    short = shortened(question, sentence)
    assert short == sentence or (short and sentence.lower().endswith(short.lower()))
