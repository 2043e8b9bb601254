"""The prompts are fixed: the embedded base was trained on them, and results are compared across versions."""

from __future__ import annotations

import pytest

from dlm_trl.tasks import prompts


def test_question_ends_right_before_the_label():
    text = prompts.question("a small animal", ["dog", "cat", "cow"], ["A", "B", "C"])
    assert text == "Description: a small animal\nA) dog\nB) cat\nC) cow\nAnswer (A to C):"


def test_labels_and_options_must_have_the_same_length():
    with pytest.raises(ValueError, match="zip"):
        prompts.question("a small animal", ["dog", "cat"], ["A", "B", "C"])


def test_description_prompt_continues_the_prefix():
    text = prompts.description_prefix((("cup", "a small bowl"),)) + prompts.description_prompt("pot")
    assert text == "Word: cup\nDescription: a small bowl\n\nWord: pot\nDescription:"


def test_span_messages_contain_their_parts():
    (asked,) = prompts.span_question_messages(" The dew point is {{ 8 }}. ", "{{ 8 }}")
    assert asked["role"] == "user"
    assert asked["content"].endswith("Text:\nThe dew point is {{ 8 }}.")
    assert "Its answer is: {{ 8 }}\n" in asked["content"]
    (check,) = prompts.span_check_messages("Text.", "What is it?")
    assert "Question: What is it?\n" in check["content"]
