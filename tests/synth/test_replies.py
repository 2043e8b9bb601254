"""Every readable pair of a reply is kept; an unreadable reply is one line of explanation."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.replies import parse_reply

DEW, HAIL = QAPair("What is dew?", "Water that condenses."), QAPair("What is hail?", "Frozen rain.")
ITEMS = [pair._asdict() for pair in (DEW, HAIL)]
LIST = json.dumps(ITEMS)
DRAFT = json.dumps([{"question": "Draft?", "answer": "x"}])

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\b\f"))
QUESTIONS = TEXTS.map(lambda text: f"Why {text}")
PAIRS = st.lists(st.builds(QAPair, QUESTIONS, TEXTS), min_size=1, max_size=4)
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
        f"<think>\n\n</think>\n\n<think>\n{DRAFT}\n</think>\n{LIST}",
        f"<reasoning>{DRAFT}</reasoning>\n{LIST}",
        f"[THINK]{DRAFT}[/THINK]{LIST}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{LIST}",
        f"analysis{DRAFT}assistantfinal{LIST}",
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
        f'The form is {{"question": "...", "answer": "..."}}.\n{LIST}',
        f'```json\n[{{"question": "<question>", "answer": "<answer>"}}]\n```\n{LIST}',
        f'{{"question": "string", "answer": "string"}}, {{"question": "Question 1", "answer": "Answer 1"}}\n{LIST}',
        LIST.replace("}, {", ", "),
        str(ITEMS),
        str(ITEMS).replace("Water", "Water").replace("}, {", "},\n {") + "\n\nLet me know!",
        LIST.replace('"question"', "question").replace('"answer"', "answer"),
        json.dumps(ITEMS, indent=2).replace('"question"', "question").replace('"answer"', "answer"),
        re.sub('"([^"]*)"', "“\\1”", LIST),
        f"### Question 1\n{DEW.question}\n\n### Answer\n{DEW.answer}\n\n### Question 2\n{HAIL.question}\n\n"
        f"### Answer\n{HAIL.answer}\n\nDone.",
        f"**Question 1**\n{DEW.question}\n**Answer**\n{DEW.answer}\n\n2. **Q**\n{HAIL.question}\n**A**\n{HAIL.answer}",
        f'- question: "{DEW.question}"\n  answer: "{DEW.answer}"\n- question: {HAIL.question}\n  answer: {HAIL.answer}',
        f"1. Q: {DEW.question}\n   A: {DEW.answer}\n2. Q: {HAIL.question}\n   A: {HAIL.answer}\n\nThat is all.",
        f"**Q1: {DEW.question}**\nA1: {DEW.answer}\n\n---\n\n**Question 2:** {HAIL.question}\n**A:** {HAIL.answer}",
        f"Q:\n{DEW.question}\nA:\n\n{DEW.answer}\n***\nq: {HAIL.question}\na: {HAIL.answer}\n---\nDone: yes",
    ],
)
def test_two_pairs_are_read_from(text: str) -> None:
    assert parse_reply(text) == ([DEW, HAIL], None)


@given(PAIRS, PREAMBLES, CHATTER, st.booleans(), st.sampled_from([None, 0, 2]))
def test_pairs_survive_any_text_around_them(
    pairs: list[QAPair], preamble: str, chatter: str, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps([pair._asdict() for pair in pairs], ensure_ascii=ascii_only, indent=indent)
    assert parse_reply(f"{preamble}{text}{chatter}") == (pairs, None)


@given(PAIRS, st.data())
def test_a_truncated_reply_keeps_its_complete_items(pairs: list[QAPair], data: st.DataObject) -> None:
    items = [json.dumps(pair._asdict()) for pair in pairs]
    kept = data.draw(st.integers(1, len(pairs)))
    whole = f"[{', '.join(items[:kept])}"
    rest = "".join(f", {item}" for item in items[kept:])[:-1]
    cut = data.draw(st.integers(0, len(json.dumps(pairs[kept]._asdict())) if rest else 0))
    assert parse_reply(whole + rest[:cut]).pairs == pairs[:kept]


def test_tex_and_line_breaks_within_strings_stay() -> None:
    source = r'{"question": "What is \(x\) in \frac{1}{\beta}?", "answer": "A \"half\",' + "\n" + r'\u00e9\\\n"}'
    assert parse_reply(source).pairs == [QAPair(r"What is \(x\) in \frac{1}{\beta}?", 'A "half",\né\\\n')]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"$\theta \times \tau$ in \text{m}", r"$\theta \times \tau$ in \text{m}"),
        (r"$A^\top x \to 0$, $\rho \neq \nu_1$, \right)", r"$A^\top x \to 0$, $\rho \neq \nu_1$, \right)"),
        (r"$\\theta$", r"$\theta$"),
        (
            r"for:\n\tprint(x)\n\to := opts\n\top.run()\r\nnot\nu = 1",
            "for:\n\tprint(x)\n\to := opts\n\top.run()\r\nnot\nu = 1",
        ),
    ],
)
def test_tex_commands_are_distinguished_from_tabs_and_line_ends(source: str, text: str) -> None:
    assert parse_reply(f'{{"question": "What?", "answer": "{source}"}}').pairs == [QAPair("What?", text)]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('Called "frozen" rain.', 'Called "frozen" rain.'),
        ('"Ice", they say.', '"Ice", they say.'),
        (r'A \"b\" "c" \\ \(x\)', r'A "b" "c" \ \(x\)'),
        ('{"a": 1} is "it"', '{"a": 1} is "it"'),
        ('A 5" pipe', None),
        ('Use [{"a": "b"}, {"a": "c"}] "so"', None),
        ('Set "x", "y": "z" "in" it', None),
        ('""Doc""', None),
        ('print({"b"}) "now', None),
    ],
)
def test_unescaped_quotes_are_read_if_the_end_is_unambiguous(answer: str, text: str | None) -> None:
    for rest in ("]", ', {"question": "Who is "he"?", "answer": "Him."}]', "]\n```\nThat's it {:}"):
        pairs = parse_reply(f'[{{"question": "What?", "answer": "{answer}"}}{rest}').pairs
        assert [pair.answer for pair in pairs if pair.question == "What?"] == ([text] if text else [])


def test_single_quotes_may_hold_apostrophes() -> None:
    first = r"""{'question': "What's dew?", 'answer': 'It\'s water.'"""
    second = """'question': 'Who's "he"?', 'answer': 'Him'"""
    pairs = [QAPair("What's dew?", "It's water."), QAPair('Who\'s "he"?', "Him")]
    assert parse_reply(f"[{first}}}, {{{second}}}]").pairs == pairs
    assert parse_reply(f"[{first}, 'level': None}}, {{{second}}}]").pairs == pairs[1:]


@pytest.mark.parametrize(
    "answer",
    [
        "These:\n\n- dew\n- hail",
        "- dew\n\n- hail\n\n- rain",
        "Run\n```python\nq: int = 1\n\nprint(q)\n```",
        "This:\n\n```\nA: x\n\n---\nQ: y\n```",
        "Send {'question': 'x?', 'answer': 'y'} there.",
        "Two lines,\nPrompt: this\nResponse: and that.",
    ],
)
def test_a_labelled_answer_does_not_end_within_a_list_or_code(answer: str) -> None:
    reply = f"**Q1:** What?\n**A1:** {answer}\n\n**Q2:** {HAIL.question}\n**A2:** {HAIL.answer}\n\n"
    assert parse_reply(reply).pairs == [QAPair("What?", answer), HAIL]
    assert parse_reply(f"```\n{reply}```").pairs[1:] == [HAIL] or "```" in answer


def test_a_question_with_two_answers_is_dropped() -> None:
    options = f"Q: Which is ice?\nA: dew\nB: hail\nAnswer: B\n\nQ: {HAIL.question}\nA: {HAIL.answer}"
    assert parse_reply(options).pairs == [HAIL]


def test_the_last_answer_of_a_truncated_labelled_reply_is_dropped() -> None:
    reply = f"Q: {DEW.question}\nA: {DEW.answer}\nQ: {HAIL.question}\nA: Froz"
    assert parse_reply(reply, is_truncated=True).pairs == [DEW]
    assert parse_reply(f"{reply}en rain.\n\nThis is al", is_truncated=True).pairs == [DEW, HAIL]
    assert parse_reply(reply).pairs == [DEW, QAPair(HAIL.question, "Froz")]
    assert parse_reply(LIST, is_truncated=True).pairs == [DEW, HAIL]


def items(*numbers: int) -> list[dict[str, str]]:
    return [{"question": f"What is item {n}?", "answer": f"Item {n}."} for n in numbers]


def numbers(text: str) -> list[int]:
    """The numbers of the items whose pairs are read."""
    return [int(pair.answer[5:-1]) for pair in parse_reply(text).pairs]


@pytest.mark.parametrize("draft", [json.dumps(items(9)[0]), json.dumps(items(9)), json.dumps({"pairs": items(8, 9)})])
@pytest.mark.parametrize("final", [json.dumps(items(1, 2)), json.dumps({"pairs": items(1, 2)}, indent=1)])
@pytest.mark.parametrize("between", [" No, that is vague.\n", "<channel|>", "\n```json\n", " [1] "])
def test_the_last_whole_list_counts(draft: str, final: str, between: str) -> None:
    assert numbers(f"First draft: {draft}{between}{final}") == [1, 2]


def test_a_broken_item_does_not_divide_a_list() -> None:
    first, broken, last = json.dumps(items(1)[0]), '{"question": "What?}', json.dumps(items(2)[0])
    assert numbers(f"[{first}, {broken}, {last}]") == [1, 2]
    assert numbers(f"{json.dumps(items(9))} or [{first}, {last}, {broken}]") == [1, 2]


def test_without_a_whole_list_all_objects_count() -> None:
    lines = "\n".join(map(json.dumps, items(1, 2, 3)))
    assert numbers(lines) == numbers(f"[{lines}") == numbers(f"As in [4]: {lines}") == [1, 2, 3]


@pytest.mark.parametrize(
    ("question", "answer"),
    [("问题", "答案"), ("问", "答"), ("Frage", "Antwort"), ("Pregunta", "Respuesta"), ("Question", "Réponse"),
     ("Вопрос", "Ответ"), ("質問", "回答"), ("질문", "답변"), ("السؤال", "الجواب"), ("Câu hỏi", "Trả lời")],
)  # fmt: skip
def test_keys_and_labels_in_other_languages(question: str, answer: str) -> None:
    expected = [QAPair("Wann?", "Um 9."), QAPair("Wo?", "Hier.")]
    rows = [{question: q, answer: a} for q, a in expected]
    assert parse_reply(json.dumps(rows, ensure_ascii=False)).pairs == expected
    assert parse_reply(str(rows)).pairs == expected  # in single quotes
    for colon in (": ", "："):
        text = "\n\n".join(f"{question}{colon}{q}\n{answer}{colon}{a}" for q, a in expected)
        assert parse_reply(text).pairs == expected


def test_numbers_stay_as_written() -> None:
    assert parse_reply('[{"question": "How many?", "answer": 1.50}]').pairs == [QAPair("How many?", "1.50")]


def test_an_answer_may_mention_the_reasoning_tag() -> None:
    pair = QAPair("What ends reasoning?", "The tag </think>.")
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
        ('[{"question": "Who?" "answer": "x"}]', "broken"),
        ('[{"question": "...", "answer": "..."}]', "lacks"),
        ("Q: ...\nA: ...", "no JSON object"),
        ('[{"question": "What?", "answer": null}]', "lacks"),
        ('[["What?", "That."], {"topic": "dew"}]', "lacks"),
        ('{"pairs": [{"question": What?, "answer": "x"}]}', "broken"),
    ],
)
def test_the_problem_is_one_line(text: str, words: str) -> None:
    pairs, problem = parse_reply(text)
    assert pairs == []
    assert problem is not None and words in problem and "\n" not in problem


@given(st.text(st.characters(exclude_categories=[])) | st.text('{}[]"\\:,aQ\n* <>', max_size=60))
@example('{"a":' + "[" * 100_000 + "}")
@example('{"a": ' + "9" * 10_000 + "}")
def test_no_reply_raises(text: str) -> None:
    pairs, problem = parse_reply(text)
    assert bool(pairs) == (problem is None)


@pytest.mark.parametrize(
    "unit",
    ["[[[[{{{{", "{", '{"', '{\\"', '{"a":', '{"a":[', '{"{', '{"a\\', '{} "', "{{}", '{"a":{"b":{"c":{"d":1}}}},',
     "{q:'", "{a:'\"}", ",a:\"", "Q:a\n```\n", "Q: a\nA: b\n\n", "# ", "q ", "q* ", "-", "Q:", "<think>", "\\"],
)  # fmt: skip
def test_a_megabyte_of_garbage_is_fast(unit: str) -> None:
    # A quadratic reader would take hours for any of these; that this ends is the test.
    for start in ("", '{"', "{"):
        parse_reply(start + unit * (1_000_000 // len(unit)))
