"""Arithmetic: every training row is true, whoever wrote its question."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.notes import DlmError
from dlm_trl.tasks.arithmetic import Arithmetic, ArithmeticItem, calculate
from dlm_trl.tasks.protocol import Example, Reject


@given(seed=st.integers(0, 2**64 - 1), digits=st.integers(1, 6), operations=st.sampled_from(["+", "-", "*", "+-*"]))
@settings(deadline=None)
def test_every_row_from_a_template_is_true(seed: int, digits: int, operations: str):
    task = Arithmetic(operations=operations, digits=digits)
    items = task.draw(random.Random(seed), 20)
    rows = task.examples(items, [""] * 20)
    for item, row in zip(items, rows, strict=True):
        left, sign, right = item.expression.split()
        assert sign in operations
        assert {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign] >= 0
        assert eval(item.expression) == item.answer
        assert isinstance(row, Example)
        assert item.expression in row.prompt
        assert row.target == f" {item.answer}\n"
    assert items == task.draw(random.Random(seed), 20)


numbers = st.integers(0, 10**9)


@given(first=numbers, rest=st.lists(st.tuples(st.sampled_from("+-*/"), numbers), min_size=1, max_size=5))
@settings(deadline=None)
def test_calculates_like_python(first: int, rest: list[tuple[str, int]]):
    text = f"What is {first}" + "".join(f" {sign} {number}" for sign, number in rest) + "?"
    exact = f"Fraction({first})" + "".join(f" {sign} Fraction({number})" for sign, number in rest)
    try:
        value = eval(exact)
    except ZeroDivisionError:
        value = None
    assert calculate(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("What is 7 plus 5?", 12),
        ("How much is 7 times 5 minus 1?", 34),
        ("9 divided by 6", Fraction(3, 2)),
        ("8 ÷ 2 × 3", 12),
        ("-3 + 5", 2),
        ("What is 007 - 2?", 5),
        ("What is seven plus five?", None),
        ("What is 12?", None),
        ("What is 7 + 5, and what is 3 + 4?", None),
        ("Ann has 3 apples. What is 7 + 5?", None),
        ("What is (7 + 5) * 2?", None),
        ("-(3 + 4)", None),
        ("What is 1.5 + 2?", None),
        ("What is 3 + 4 = 8?", None),
        ("What is the square of 3 + 4?", None),
        ("What is the value of 3 + 4?", 7),
        ("1 / 0", None),
        ("", None),
    ],
)
def test_parses_one_expression_or_none(text: str, value: Fraction | int | None):
    assert calculate(text) == value


@pytest.mark.parametrize(
    ("question", "outcome"),
    [
        (
            " What is 40 + 2?",
            Example("Question: What is 40 + 2?\nAnswer:", " 42\n", facts={"question": "What is 40 + 2?"}),
        ),
        (" What is 40 + 3?", Reject("wrong")),
        (" What is the answer?", Reject("no expression")),
        ("  ", Reject("empty")),
    ],
)
def test_questions_of_the_base_are_evaluated(question: str, outcome: Example | Reject):
    task = Arithmetic(questions="base")
    item = ArithmeticItem(42, "1 + 41", "What is {}?")
    assert task.examples([item], [question]) == [outcome]
    (prompt,) = task.prompts([item])
    assert prompt.startswith(task.prefix)
    assert prompt.endswith("\n\nAnswer: 42\nQuestion:")


def test_the_few_shot_questions_are_true():
    for block in Arithmetic(questions="base").prefix.strip().split("\n\n"):
        answer, question = block.split("\n")
        assert calculate(question.removeprefix("Question: ")) == int(answer.removeprefix("Answer: "))


def test_templates_do_not_need_the_base():
    assert Arithmetic().max_new_tokens == 0 < Arithmetic(questions="base").max_new_tokens


def test_accuracy_compares_whole_answers():
    rows = Arithmetic().examples([ArithmeticItem(12, "5 + 7", "What is {}?")] * 2, ["", ""])
    assert Arithmetic().metrics(rows, [" 12\n", " 1\n"]) == {"accuracy": 0.5}
    assert Arithmetic().metrics([], []) == {}


@pytest.mark.parametrize("options", [{"operations": ""}, {"operations": "+/"}, {"digits": 0}])
def test_invalid_options_are_refused(options: dict):
    with pytest.raises(DlmError):
        Arithmetic(**options)


@pytest.mark.parametrize("text", ["1" * 200_000, "1+" * 5000 + "1", "1" * 6000 + "+1"], ids=["digits", "sum", "number"])
def test_what_a_model_writes_that_repeats_itself_has_no_value(text: str):
    assert calculate(text) is None
