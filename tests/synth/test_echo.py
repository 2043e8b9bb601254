"""Pairs that repeat the request."""

import pytest

from dlm_trl.synth.echo import EchoCheck
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.prompts import TEMPLATES

PROSE = "The west pump is bled every Monday before nine. Its key hangs beside the door."


@pytest.mark.parametrize(
    "question",
    [
        "What is 1 question and answer pair that goes beyond the text?",
        "What is the text about?",
        "Which questions does each answer ask about the text below?",
        "What is a JSON list?",
    ],
)
def test_a_question_that_repeats_the_request_is_an_echo(question: str) -> None:
    assert "repeats the request" in (EchoCheck(TEMPLATES["expansion"]).echoes(QAPair(question, "Yes."), PROSE) or "")


@pytest.mark.parametrize(
    "question", ["When is the west pump bled?", "Where does the key hang?", "Which keys hang beside the door?", "Why?"]
)
@pytest.mark.parametrize("template", TEMPLATES.values())
def test_a_question_about_the_prose_is_not_an_echo(question: str, template: str) -> None:
    assert EchoCheck(template).echoes(QAPair(question, "Every Monday."), PROSE) is None


def test_words_of_the_prose_do_not_count() -> None:
    prose = "A survey has ten questions. Each question has one answer."
    assert EchoCheck(TEMPLATES["extraction"]).echoes(QAPair("What does each question have?", "One."), prose) is None


def test_an_answer_that_repeats_the_question_is_an_echo() -> None:
    check = EchoCheck(TEMPLATES["extraction"])
    assert "answer" in (check.echoes(QAPair("When is it bled?", "When is it bled? On Monday."), PROSE) or "")
    assert check.echoes(QAPair("Is the pump bled?", "The pump is bled."), PROSE) is None
