"""What can be saved of a reply is saved, and what cannot be read is said in one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlm_trl.synth.pairs import Pair
from dlm_trl.synth.replies import parse_reply

DEW, HAIL = Pair("What is dew?", "Water that condenses."), Pair("What is hail?", "Frozen rain.")
ITEMS = [pair._asdict() for pair in (DEW, HAIL)]
LIST = json.dumps(ITEMS)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\b\f"))
PAIRS = st.lists(st.builds(Pair, TEXTS, TEXTS), min_size=1, max_size=4)
PREAMBLES = st.sampled_from(
    ["", "Sure! Here it is:\n", 'A 5" {set} of "pairs", {}:\n\n', '<think>[{ "</think>', "```json\n"]
)
CHATTER = st.sampled_from(["", "\n```", '\n\nLet me know {if} you "need more!', "}]", "\n{"])


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        json.dumps(ITEMS, indent=2),
        f"Here are the pairs:\n\n{LIST}\n\nI hope this helps!",
        f"```json\n{LIST}\n```",
        f"Sure.\n~~~\n{LIST}\n~~~\n",
        f"<think>\nTwo pairs, like {json.dumps([{'question': 'draft', 'answer': 'x'}])}.\n</think>\n\n{LIST}",
        f"Two pairs, like {json.dumps([{'question': 'draft', 'answer': 'x'}])}.\n</think>\n\n{LIST}",
        f"<thinking>hm</thinking>{LIST}",
        json.dumps({"pairs": ITEMS, "count": 2}),
        json.dumps({"result": {"items": ITEMS}}),
        "\n".join(map(json.dumps, ITEMS)),
        json.dumps([{"id": {"n": 1}} | item | {"meta": {"from": {"lines": [{"at": 1}]}}} for item in ITEMS]),
        json.dumps({"pairs": [{"pair": item, "meta": {}} for item in ITEMS]}),
        LIST.replace('."}', '.",\n}'),
        LIST.replace("}, {", '}, {"question": "broken "quotes"", "answer": "x"}, {'),
        LIST.replace("}, {", '}, {"question": "no answer"}, "text", null, {'),
        LIST.replace("}, {", '}, {"question": "cut", "answer": {'),
        LIST[:-1] + ', {"question": "What is sno',
        LIST[:-1] + ', {"question": "What is snow?", "answer": ',
        LIST[:-1] + ",]",
        LIST.replace("question", "Q").replace("answer", "a"),
        LIST.replace("question", "Question").replace("answer", " ANSWER "),
        LIST.replace("question", "prompt").replace("answer", "response"),
        f"1. Q: {DEW.question}\n   A: {DEW.answer}\n2. Q: {HAIL.question}\n   A: {HAIL.answer}\n\nThat is all.",
        f"**Q1: {DEW.question}**\nA1: {DEW.answer}\n\n---\n\n**Question 2:** {HAIL.question}\n**A:** {HAIL.answer}",
        f"Q:\n{DEW.question}\nA:\n\n{DEW.answer}\n***\nq: {HAIL.question}\na: {HAIL.answer}\n---\nDone: yes",
    ],
)
def test_two_pairs_are_read_from(text: str) -> None:
    assert parse_reply(text) == ([DEW, HAIL], None)


@given(PAIRS, PREAMBLES, CHATTER, st.booleans(), st.sampled_from([None, 0, 2]))
def test_any_pairs_survive_what_stands_around_them(
    pairs: list[Pair], preamble: str, chatter: str, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps([pair._asdict() for pair in pairs], ensure_ascii=ascii_only, indent=indent)
    assert parse_reply(f"{preamble}{text}{chatter}") == (pairs, None)


@given(PAIRS, st.data())
def test_a_cut_reply_keeps_its_complete_items(pairs: list[Pair], data: st.DataObject) -> None:
    items = [json.dumps(pair._asdict()) for pair in pairs]
    kept = data.draw(st.integers(1, len(pairs)))
    whole = f"[{', '.join(items[:kept])}"
    rest = "".join(f", {item}" for item in items[kept:])[:-1]
    cut = data.draw(st.integers(0, len(json.dumps(pairs[kept]._asdict())) if rest else 0))
    assert parse_reply(whole + rest[:cut]).pairs == pairs[:kept]


def test_tex_and_line_breaks_within_strings_stay() -> None:
    source = r'{"question": "What is \(x\) in \frac{1}{\beta}?", "answer": "A \"half\",' + "\n" + r'\u00e9\\\n"}'
    assert parse_reply(source).pairs == [Pair(r"What is \(x\) in \frac{1}{\beta}?", 'A "half",\né\\\n')]


def test_numbers_stay_as_they_were_written() -> None:
    assert parse_reply('[{"question": "How many?", "answer": 1.50}]').pairs == [Pair("How many?", "1.50")]


def test_an_answer_may_speak_of_the_reasoning_tag() -> None:
    pair = Pair("What ends reasoning?", "The tag </think>.")
    assert parse_reply(json.dumps([pair._asdict()])).pairs == [pair]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("<think>I wonder", "reasoning"),
        ("<think>done</think>\n", "reasoning"),
        ("I cannot help with that.", "no JSON object"),
        ('[{"question": "What is', "ends within"),
        ('[{"question": "Who said "hi"?", "answer": "x"}]', "broken"),
        ('[{"question": "What?", "answer": null}]', "lacks"),
        ('[["What?", "That."], {"topic": "dew"}]', "lacks"),
        ('{"pairs": [{"question": What?, "answer": "x"}]}', "broken"),
    ],
)
def test_the_problem_is_said_in_one_line(text: str, words: str) -> None:
    pairs, problem = parse_reply(text)
    assert pairs == []
    assert problem is not None and words in problem and "\n" not in problem


@given(st.text(st.characters(exclude_categories=[])) | st.text('{}[]"\\:,aQ\n* <>', max_size=60))
@example('{"a":' + "[" * 100_000 + "}")
@example('{"a": ' + "9" * 10_000 + "}")
def test_nothing_that_a_teacher_says_raises(text: str) -> None:
    pairs, problem = parse_reply(text)
    assert bool(pairs) == (problem is None)


@pytest.mark.parametrize(
    "unit",
    ["[[[[{{{{", "{", '{"', '{\\"', '{"a":', '{"a":[', '{"{', '{"a\\', '{} "', "{{}", '{"a":{"b":{"c":{"d":1}}}},',
     "q ", "q* ", "-", "Q:", "<think>", "\\"],
)  # fmt: skip
def test_a_megabyte_of_rubbish_is_read_at_once(unit: str) -> None:
    # A quadratic reader would take hours for any of these; that this ends is the test.
    for start in ("", '{"', "{"):
        parse_reply(start + unit * (1_000_000 // len(unit)))
