"""Questions about the sentences of notes."""

import random

import pytest

from dlm_trl.asking.prompts import continued_questions
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError, Document, parse
from dlm_trl.online.authors import FrozenBase
from dlm_trl.online.encode import encode
from dlm_trl.online.rows import write_rows
from dlm_trl.tasks.prose_qa import ProseItem, ProseQa
from dlm_trl.tasks.protocol import Example, Reject

HEAD = "---\ndlm_id: 01JTRX0000000000000000000A\nbase_model: tiny\nsystem_prompt: {system}\n---\n"
PROSE = "A lame is a thin blade on a handle. Steam keeps the skin soft. Bake the loaf for 20 minutes. Look up.\n"
PAIR = "\n::instruction::\n### Q\nWhat is a mineral?\n### A\nA mineral is a solid of 2 elements.\n"


def notes(body: str, system: str = "null") -> Document:
    return parse(HEAD.format(system=system) + body)


def item(task: ProseQa, opening: str) -> ProseItem:
    return next(way for ways in task.sentences for way in ways if way.opening == opening)


def test_sentences_of_prose_are_drawn_with_each_way_to_ask() -> None:
    task = ProseQa([notes(PROSE + PAIR), notes("Dew is a thin film of water.\n", system="Be brief.")])
    found = {way.opening: (way.answer, way.system) for ways in task.sentences for way in ways}
    assert found["What is a lame"] == (None, None)
    assert found["What keeps the skin soft?"] == ("Steam.", None)
    assert found["What is dew"] == (None, "Be brief.")
    assert not any("mineral" in opening for opening in found)
    assert task.draw(random.Random(5), 9) == task.draw(random.Random(5), 9)
    drawn = {way.opening for way in task.draw(random.Random(0), 300)}
    assert drawn == set(found)


def test_a_sentence_that_no_rule_is_sure_of_is_asked_with_words_that_fit_any() -> None:
    (ways,) = ProseQa([notes("The yeast makes gas, and the gas lifts the dough.\n")]).sentences
    assert [way.opening for way in ways] == ["What does", "What"]


@pytest.mark.parametrize("body", [PAIR, "Look up.\n", "Der Teig ruht eine Stunde, und dann wird er gefaltet.\n"])
def test_notes_that_no_rule_can_ask_about_are_an_error(body: str) -> None:
    with pytest.raises(DlmError, match="no sentence that a rule knows how to ask about") as caught:
        ProseQa([notes(body)])
    assert caught.value.kind == "NoRowsError"


def test_the_row_is_question_and_answer_without_the_prose() -> None:
    task = ProseQa([notes(PROSE, system="Be brief.")])
    way = item(task, "What is a lame")
    (asked,), (row,) = task.prompts([way]), task.examples([way], [""])
    assert asked.startswith(task.prefix) and asked.endswith(
        "Fact: A lame is a thin blade on a handle.\nQuestion: What is a lame"
    )
    assert row == Example(
        prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a lame?"}],
        target="A thin blade on a handle.",
        facts={"question": "What is a lame?", "sentence": "A lame is a thin blade on a handle."},
        context=row.context,
    )
    system, page = row.context
    assert system["content"] == "Be brief."
    assert PROSE.strip() in page["content"] and page["content"].endswith("What is a lame?")


def test_a_question_from_the_other_side_needs_nothing_of_the_base() -> None:
    task = ProseQa([notes(PROSE)])
    (row,) = task.examples([item(task, "What keeps the skin soft?")], [" Steam, and what is steam"])
    assert (row.prompt[-1]["content"], row.target) == ("What keeps the skin soft?", "Steam.")


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (" made of", "What is a lame made of?"),
        ("made of", "What is a lame made of?"),
        ("'s use", None),
        (" made of steel", None),
        ("What is a lame", "What is a lame?"),  # as teachers reply to a message
        ("Question: what is a lame", "what is a lame?"),
        ("\nAnswer: A blade.", "What is a lame?"),
    ],
)
def test_what_the_base_writes_is_joined_and_checked(text: str, question: str | None) -> None:
    task = ProseQa([notes("A lame is a thin blade made of iron on a handle.\n")])
    (row,) = task.examples([item(task, "What is a lame")], [text])
    if question is None:
        assert isinstance(row, Reject) and ":" not in row.reason
    else:
        assert isinstance(row, Example) and row.facts["question"] == question


def test_the_prompt_is_the_one_of_synthesis() -> None:
    task = ProseQa([notes(PROSE)])
    way = item(task, "What is a lame")
    assert task.prompts([way]) == [continued_questions(way.fact.context, way.opening)[1]]


def test_a_step_with_the_embedded_base() -> None:
    tokenizer, model = load_tokenizer("tiny"), load_base("tiny")
    task = ProseQa(
        [notes(PROSE + "\nFlour is grain that a mill has ground. The ferry stops when the river is high.\n")]
    )
    written = write_rows(
        task, FrozenBase(model, tokenizer), lambda row: encode(row, tokenizer, 256), seed=0, step=0, indices=range(16)
    )
    rows = {draft.index: draft.outcome for draft in written.drafts if draft.encoded}
    assert len(rows) >= 8
    assert all(
        isinstance(row, Example) and row.facts["sentence"] not in row.prompt[-1]["content"] for row in rows.values()
    )
