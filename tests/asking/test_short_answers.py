"""Sentences as short answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.asking.short_answers import shortened


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
