"""Questions about prose: the answer is a span of the prose, and the prose is not in the row."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.models.generate import generate
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError, parse
from dlm_trl.tasks.protocol import CheckedTask, Example, Reject
from dlm_trl.tasks.span_qa import MAX_SPAN, PASSAGE, SpanItem, SpanQa, passages, spans

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\nsystem_prompt: {system}\n---\n"
PROSE = "A starter is a mix of flour and water. Bake the loaf for 20 minutes at 240 degrees Celsius in a Dutch oven."
PAIR = "\n::instruction::\n### Q\nWhat is salt?\n### A\nA mineral of 2 elements.\n"


def notes(body: str, system: str = "null"):
    return parse(HEAD.format(system=system) + body)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A starter is a mix of flour and water.", ["a mix of flour and water"]),
        ("Feeding means giving a starter flour, and it is called work.", ["giving a starter flour", "a starter flour"]),
        ("Heat it to 240 degrees Celsius.", ["240 degrees Celsius"]),
        ("It takes 1.5 hours or 70 % of 3 weeks.", ["1.5 hours", "70 %", "3 weeks"]),
        ("The gas lifts the dough.", ["the dough"]),
        ("When the dough gets tall, it rests in its warm basket of cane.", ["its warm basket of cane"]),
        ("He met Ada Lovelace in London.", ["Ada Lovelace", "London"]),
        ("It rains and rains.", []),
        ("Bread is a thing" + " so" * (MAX_SPAN - 1) + ".", []),
        ("Bread is a thing" + " so" * (MAX_SPAN - 2) + ".", ["a thing" + " so" * (MAX_SPAN - 2)]),
    ],
)
def test_spans(sentence: str, expected: list[str]):
    assert spans(sentence) == expected


words = st.sampled_from(
    ["a", "the", "dough", "is", "of", "Water", "20", "rises,", "so.", "(and)", "Ada's", "##", "3.5 %"]
)


@given(text=st.one_of(st.text(max_size=300), st.lists(words, max_size=400).map(" ".join)))
@settings(deadline=None)
def test_spans_occur_in_passages_and_passages_in_the_prose(text: str):
    flat = " ".join(text.split())
    for passage in passages(text):
        assert passage
        if "`" not in text and "~" not in text:
            assert passage in flat
        for span in spans(passage):
            assert span in passage
            assert 0 < len(span.split()) <= MAX_SPAN
        assert len(set(spans(passage))) == len(spans(passage))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
@settings(deadline=None)
def test_long_paragraphs_are_split_between_sentences(lengths: list[int]):
    sentences = ["Dough" + " rises" * (n - 1) + "." for n in lengths]
    pieces = passages("\n".join(sentences))
    assert " ".join(pieces) == " ".join(sentences)
    assert all(len(piece.split()) <= PASSAGE for piece in pieces)
    # Greedy: the next sentence didn't fit.
    for piece, following in pairwise(pieces):
        assert len(piece.split()) + len(following.split(".")[0].split()) > PASSAGE


def test_headings_tables_and_code_are_skipped():
    text = "# The 3 loaves\n\nOne.\n\n| 4 | 5 |\n|---|---|\n\n```python\nx = 6\n\ny = 7\n```\nTwo.\n\n~~~\n8\n"
    assert passages(text) == ["One.", "Two."]


def test_only_prose_sections_are_used():
    task = SpanQa([notes(PROSE + PAIR), notes("Dew is a thin film of water.\n", system="Be brief.")])
    assert {s.text for s in task.spans} >= {"20 minutes", "240 degrees Celsius", "a thin film of water"}
    assert not any("mineral" in s.text or "2 elements" in s.text for s in task.spans)
    assert {s.system for s in task.spans if s.text == "a thin film of water"} == {"Be brief."}
    assert task.draw(random.Random(5), 9) == task.draw(random.Random(5), 9)


@pytest.mark.parametrize("body", [PAIR, "It rains.\n"])
def test_notes_without_spans_are_an_error(body: str):
    with pytest.raises(DlmError, match="no prose with a number or noun phrase") as caught:
        SpanQa([notes(body)])
    assert caught.value.kind == "NoRowsError"


def test_the_row_is_the_question_and_the_span_without_the_prose():
    task = SpanQa([notes(PROSE, system="Be brief.")])
    item = next(s for s in task.spans if s.text == "20 minutes")
    (row,) = task.examples([item], [" How long is a loaf baked? "])
    assert row.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How long is a loaf baked?"},
    ]
    assert row.target == "20 minutes"
    assert row.choices == ()
    assert row.facts["passage"] == PROSE
    (asked,), (check,) = task.prompts([item])[0], task.check_prompts([item], [" How long is a loaf baked? "])[0]
    assert PROSE in asked["content"]
    assert "Its answer is: 20 minutes\n" in asked["content"]
    assert PROSE in check["content"]
    assert "Question: How long is a loaf baked?\n" in check["content"]
    assert task.metrics([row, row], ["20 minutes", "20 hours"]) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("  ", "empty"),
        ("How long do you bake the", "not a question"),
        ("Is it 20 minutes?", "contains the answer"),
        ("What time does the passage above give?", "refers to the text"),
    ],
)
def test_rejected_questions(question: str, reason: str):
    task = SpanQa([notes(PROSE)])
    assert task.examples([SpanItem("20 minutes", PROSE, None)], [question]) == [Reject(reason)]


@pytest.mark.parametrize(
    ("target", "reply", "same"),
    [
        ("a mix of flour", "A mix of flour.", True),
        ("a mix of flour", "mix of flour", True),
        ("20 minutes", "20  minutes", True),
        ("20 minutes", "20 hours", False),
        ("20 minutes", "20 minutes or more", False),
        ("20 minutes", "", False),
        ("3.5 %", "35 %", False),
    ],
)
def test_only_the_span_confirms(target: str, reply: str, same: bool):
    example = Example([{"role": "user", "content": "How long?"}], target)
    assert SpanQa([notes(PROSE)]).confirms(example, reply) is same


def test_both_rounds_with_the_embedded_base():
    tokenizer, model = load_tokenizer("tiny"), load_base("tiny")
    task = SpanQa([notes(PROSE)])
    assert isinstance(task, CheckedTask)
    items = task.draw(random.Random(0), 8)

    def texts_of(prompts: list) -> list[str]:
        coded = [tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=False) for m in prompts]
        return generate(model, tokenizer, coded, task.max_new_tokens, task.temperature, stop=task.stop, seed=1)

    texts = texts_of(task.prompts(items))
    rows = task.examples(items, texts)
    assert len(rows) == len(items)
    replies = texts_of(task.check_prompts(items, texts))
    assert len(replies) == len(items)


def test_blank_lines_take_linear_time():
    assert passages("One." + "\n" * 300_000 + "Two.") == ["One.", "Two."]
