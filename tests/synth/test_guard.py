"""Whatever a teacher writes, the file stays valid and contains exactly the pair."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Document, edit, parse
from dlm_trl.synth.guard import Refusal, make_safe, synth_section
from dlm_trl.synth.pairs import QAPair
from tests.notes.test_edit import documents

MARKER = {
    "teacher": "hf:tiny",
    "strategy": "extraction",
    "synth_at": "2026-01-02T03:04:05Z",
    "source_section_id": "421905de9ab75735",
}
BREAKS = ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
LINES = st.one_of(
    st.sampled_from(["", " ", "Dew.", "### Q", "### A", " ### A\t", "### Q !probe", "#### Q", "### Prompt", "---"]),
    st.sampled_from(["```", "```python", "````", "  ```", "~~~", " ~~~~", "```git log```", "`x`", "``` a`b"]),
    st.sampled_from(["::prose::", "::instruction#a::", "::std::", "::::", " ::prose::", '::image path="a`.png"::']),
    st.sampled_from(['<!-- dlm-auto-synth: synth_teacher="x" -->', '<!-- dlm-auto-harvest: source="x" -->']),
    st.text(st.characters(exclude_categories=[]), max_size=5),
)
NASTY = st.lists(st.tuples(LINES, st.sampled_from(BREAKS)), max_size=9).map(
    lambda lines: "".join(line + end for line, end in lines)
)
TEXTS = NASTY | st.text(st.characters(exclude_categories=[]))


def appended(document: Document, pair: QAPair) -> Document:
    return parse(edit.append_bytes(document, synth_section(pair, **MARKER)))


@given(TEXTS, TEXTS, documents())
@example("```", "a\n```\n::prose::", parse("---\ndlm_id: 01JTRX0000000000000000000A\nbase_model: t\n---"))
def test_any_two_strings_are_refused_or_read_back_exactly(question: str, answer: str, document: Document) -> None:
    pair = make_safe(QAPair(question, answer))
    if isinstance(pair, Refusal):
        assert "is empty" in pair.reason or "control character" in pair.reason, "all else can be made safe"
        return
    after = appended(document, pair)
    *before, section = after.sections
    assert [(s.kind, s.content) for s in before] == [(s.kind, s.content) for s in document.sections]
    assert after.raw.startswith(document.raw)
    assert [(p.question, p.answer) for p in section.pairs()] == [pair]
    assert section.provenance["synth_teacher"] == "hf:tiny"
    assert edit.remove_bytes(after, lambda s: s is section) == document.raw
    assert make_safe(pair) == pair


@given(st.lists(LINES.filter(lambda line: line.isprintable()), min_size=1, max_size=9).map("\n".join))
@example("Dew")
@example("::prose:: \n```")
def test_lines_of_printable_text_are_made_safe_not_refused(text: str) -> None:
    found = make_safe(QAPair("What is it?", f"It is:\n{text}"))
    assert isinstance(found, QAPair)


FENCED = "Write:\n\n```text\n::prose::\n```\n\nand end."


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("  two\r\nlines\u2028and a third ", "two\nlines\nand a third"),
        (FENCED, FENCED),
        ("::prose::", "`::prose::`"),
        ("Begin it with\n::instruction::\nalone.", "Begin it with\n`::instruction::`\nalone."),
        ("~~~\n::prose::\n~~~", "~~~\n ::prose::\n~~~"),
        ("Write\n### Q\nfirst, then\n ### A", "Write\n#### Q\nfirst, then\n #### A"),
        ("```\n### Q !probe\n```", "```\n#### Q !probe\n```"),
        ("Run\n```sh\ndlm train", "Run\n```sh\ndlm train\n```"),
        ("Run it.\n```", "Run it."),
        ("```git log```", "``git log``"),
        ("````md\n```\n::prose::\n```\n````", "````md\n ```\n::prose::\n ```\n````"),
        ("```\nx\n  ```", "```\nx\n```"),
        ("1. x\n   ```\n   y\n```", "1. x\n   ```\n   y\n ```"),
        ("C++ has ::std::move and `a::b::`", "C++ has ::std::move and `a::b::`"),
    ],
)
def test_rendered_text_does_not_change(text: str, safe: str) -> None:
    assert make_safe(QAPair("What?", text)) == QAPair("What?", safe)
    assert make_safe(QAPair(text, "That.")) == QAPair(safe, "That.")


@pytest.mark.parametrize("text", ["", " \n\u2028", "a\x00b", "\ud83d", "\x08eta", "```"])
def test_damaged_text_is_refused(text: str) -> None:
    for pair in (QAPair("What?", text), QAPair(text, "That.")):
        assert isinstance(make_safe(pair), Refusal)


def test_the_section_is_written_in_the_format() -> None:
    assert synth_section(QAPair("What is dew?", "Water."), **MARKER) == (
        '::instruction::\n<!-- dlm-auto-synth: synth_teacher="hf:tiny" synth_strategy="extraction" '
        'synth_at="2026-01-02T03:04:05Z" source_section_id="421905de9ab75735" -->\n'
        "### Q\nWhat is dew?\n### A\nWater.\n"
    )


@pytest.mark.parametrize("teacher", ["", 'hf:a"b', "hf:a\n::prose::\nx"])
def test_a_teacher_name_that_a_marker_cannot_contain_is_an_error(teacher: str) -> None:
    with pytest.raises(DlmError) as caught:
        synth_section(QAPair("What?", "That."), **{**MARKER, "teacher": teacher})
    assert caught.value.kind == "UsageError"
