"""Questions that repeat a validation row are told apart from similar ones that ask something else."""

from __future__ import annotations

import pytest
from datasets import Dataset, Features
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import Document, parse
from dlm_trl.rows.convert import convert, features
from dlm_trl.rows.split import VALIDATION_FRACTION, split
from dlm_trl.synth.leak import LeakCheck, validation_questions
from dlm_trl.train.arguments import NotesArguments

ROWS = [
    "What is the capital of France?",
    "How many minutes does a lota need?",
    "What is dew?",
    "Does a cat chase a dog?",
]


@pytest.mark.parametrize(
    ("question", "row"),
    [
        ("what is the capital of france", 0),
        ("So, what's the capital of France?", 0),
        ("Please tell me: what is the capital of “France”?", 0),
        ("What is the capital of Spain?", None),
        ("What is the capital of the region in which France has most of its vineyards today?", None),
        ("According to the text, how many minutes does the lota need?", 1),
        ("How many minutes does a lota usually need?", 1),
        ("How many minutes does a kettle need?", None),
        ("How many days does a lota need?", None),
        ("What is the dew?", 2),
        ("Why does dew form on cold nights?", None),
        ("Does a dog chase a cat?", None),
        ("", None),
    ],
)
def test_repeated_questions(question: str, row: int | None) -> None:
    assert LeakCheck(ROWS).leaks(question) == (None if row is None else ROWS[row])


@pytest.mark.parametrize(
    ("row", "question", "is_leak"),
    [
        ("法国的首都是哪里？", "请问，法国的首都是哪里？", True),
        ("法国的首都是哪里？", "德国的首都是哪里？", False),
        ("दिन क्या है?", "दान क्या है?", False),
        ("What does x < y mean?", "What does x > y mean?", False),
        ("What does `*` do?", "What does `&` do?", False),
    ],
)
def test_other_scripts_and_symbols(row: str, question: str, is_leak: bool) -> None:
    assert (LeakCheck([row]).leaks(question) is not None) == is_leak


@given(st.lists(st.text(min_size=1)), st.text())
def test_every_row_repeats_itself_and_nothing_raises(rows: list[str], other: str) -> None:
    check = LeakCheck(rows)
    check.leaks(other)
    assert all(check.leaks(row) is not None for row in rows)
    assert LeakCheck([]).leaks(other) is None


@pytest.fixture(scope="module")
def document() -> Document:
    pairs = "".join(f"::instruction::\n### Q\nWhat is thing {i}?\n### A\nIt is {i}.\n" for i in range(200))
    return parse(f"---\ndlm_id: 01JTRX0000000000000000000A\nbase_model: tiny\nsystem_prompt: Be brief.\n---\n{pairs}")


def test_validation_questions_match_the_split(document: Document) -> None:
    rows = Dataset.from_list(list(convert(document, "sft")), Features(features("sft")))
    for fraction, seed in ((0.1, 42), (0.3, 7)):
        held_out = split(rows, fraction, seed)["validation"]["prompt"]
        questions = validation_questions(document, fraction, seed)
        assert questions and questions == [prompt[-1]["content"] for prompt in held_out]
    assert validation_questions(document, 0, 42) == []


def test_the_default_fraction_matches_the_recipe() -> None:
    assert NotesArguments(notes="x").validation_fraction == VALIDATION_FRACTION
