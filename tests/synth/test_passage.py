"""The sentence of the prose that a pair comes from, with its line, and how it is shortened."""

import textwrap
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import Document, parse
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.passage import Passage, passage, prose_by_id, shorten
from dlm_trl.synth.staging import Staged
from tests.synth.writer import HEAD

TEXTS = st.lists(st.text("abcdefgh", min_size=1, max_size=9), max_size=30).map(" ".join)
SENTENCES = st.lists(st.integers(0, 999), min_size=1, max_size=12, unique=True).map(
    lambda numbers: [f"Word {n} is one of the many words of this text, and it has {n} letters." for n in numbers]
)


def found(document: Document, answer: str, question: str = "What?", strategy: str = "extraction") -> Passage | None:
    (section,) = document.sections
    item = Staged("ab" * 8, QAPair(question, answer), "t", strategy, "", section.section_id)
    return passage(item, prose_by_id(document)[item.source_section_id])


@given(SENTENCES, st.sampled_from(["", "> ", "- "]), st.integers(20, 120))
def test_a_sentence_that_is_the_answer_is_found_with_its_line(sentences: list[str], mark: str, width: int) -> None:
    lines: list[str] = []
    begins = []
    for sentence in sentences:
        begins.append(len(lines))
        indent = "> " if mark == "> " else ""
        lines += textwrap.wrap(sentence, width, initial_indent=mark, subsequent_indent=indent, break_on_hyphens=False)
    document = parse(f"{HEAD}Above.\n\n" + "\n".join(lines))
    for sentence, begin in zip(sentences, begins, strict=True):
        result = found(document, sentence)
        assert result and result.sentence == sentence
        assert document.raw.decode().split("\n")[result.line - 1] == lines[begin]


def test_another_answer_is_from_the_sentence_with_most_of_its_words() -> None:
    document = parse(
        f"{HEAD}Salt slows the yeast down. The yeast makes gas.\nGas lifts the dough.\n\nWater from rain is wet."
    )
    assert found(document, "the gas of yeast") == Passage(
        6, "Salt slows the yeast down.", "The yeast makes gas.", "Gas lifts the dough."
    )
    for question, sentence in (
        ("What slows the yeast?", "Salt slows the yeast down."),
        ("What makes gas?", "The yeast makes gas."),
        ("What?", "Salt slows the yeast down."),  # the first of equal ones
    ):
        result = found(document, "yeast", question)
        assert result and result.sentence == sentence
    last = found(document, "It is wet.")
    assert last == Passage(9, "", "Water from rain is wet.", "")


def test_what_a_pair_is_known_to_ask_about_comes_first() -> None:
    document = parse(f"{HEAD}Salt slows the yeast down. The yeast makes gas.")
    (section,) = document.sections
    item = Staged("ab" * 8, QAPair("What makes gas?", "The yeast makes gas."), "t", "extraction", "", "")
    for sentence in ("Salt slows the yeast down.", "The yeast makes gas."):
        result = passage(replace(item, facts=(sentence,)), section)
        assert result and result.sentence == sentence
    assert passage(replace(item, facts=("This sentence was edited since.",)), section) is None


def test_an_answer_from_elsewhere_has_no_sentence() -> None:
    document = parse(f"{HEAD}Salt slows the yeast down.")
    assert found(document, "a stone") is None
    assert found(document, "Salt slows the yeast down.", strategy="expansion") is None
    assert found(parse(f"{HEAD}# Salt"), "Salt") is None


@given(TEXTS, TEXTS.filter(bool), TEXTS, st.integers(20, 200), st.none() | st.integers(20, 60))
def test_a_short_passage_fits_and_keeps_what_is_next_to_the_sentence(
    before: str, sentence: str, after: str, width: int, sentence_width: int | None
) -> None:
    whole = Passage(1, before, sentence, after)
    short = shorten(whole, width, sentence_width)
    assert sum(map(len, short[1:])) <= width and len(short.sentence) <= (sentence_width or width)
    if len(before + sentence + after) <= width and len(sentence) <= (sentence_width or width):
        assert short == whole
    kept = short.before.removeprefix("…"), short.after.removesuffix("…")
    assert before.endswith(kept[0]) and after.startswith(kept[1])
    begin, cut, end = short.sentence.partition("…")
    assert sentence.startswith(begin.strip()) and (sentence.endswith(end.strip()) if cut else begin == sentence)


@pytest.mark.parametrize("width", [60, 120])
def test_a_side_gets_the_room_that_the_other_does_not_need(width: int) -> None:
    words = " ".join(["word"] * 50)
    for whole in (Passage(1, "", "Here.", words), Passage(1, words, "Here.", "")):
        assert width - 6 <= sum(map(len, shorten(whole, width)[1:])) <= width


def test_text_without_spaces_is_cut_between_characters() -> None:
    short = shorten(Passage(1, "露は水だ。" * 30, "夜" * 100, "水は青い。" * 30), 60, 20)
    assert short == Passage(
        1, f"… {('露は水だ。' * 30)[-19:]}", f"{'夜' * 8} … {'夜' * 8}", f"{('水は青い。' * 30)[:18]} …"
    )
