"""`synth list` and its explanation of one pair: what is shown of a pair, and that nothing runs over the edge."""

from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

from dlm_trl.notes import Document, read
from dlm_trl.notes.terminal import console
from dlm_trl.synth import listing
from dlm_trl.synth.apply import apply
from dlm_trl.synth.explain import CHECKS, SCORES, explain, numbers
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.report import Stage
from dlm_trl.synth.staging import applied, stage, staged
from dlm_trl.teachers.protocol import Reply, Request
from tests.synth.writer import HEAD

AT = "2026-04-24T10:18:42Z"
YEAST = "The yeast makes gas, and the gas lifts the dough."
TEXT = f"""{HEAD}# Bread

A starter has yeast.
{YEAST} The bacteria make acids.

::prose::
Salt slows the yeast down.
"""
SCORED = Scores(-0.4, 3.17, 1.0, 0.4, "The bacteria make acids.")


@pytest.fixture
def document(tmp_path: Path) -> Document:
    (tmp_path / "notes.dlm").write_text(TEXT, encoding="utf-8")
    return read(tmp_path / "notes.dlm")


def candidate(document: Document, question: str, answer: str, section: int = 0) -> Candidate:
    prose = document.sections[section]
    return Candidate(
        QAPair(question, answer), prose.section_id, "extraction", prose.content, f"key of {question}", 0, "hf:a/model"
    )


def all_pairs(document: Document) -> list[Candidate]:
    """One about a sentence, with scores; one from a list; one beyond the prose; and one about the second section."""
    about = replace(candidate(document, "What does the yeast make?", YEAST), scores=SCORED, limits={"lead": -0.1})
    judged = replace(
        candidate(document, "What has yeast?", "A starter."),
        scores=Scores(0.2, 0.9, 1.0),
        limits={"margin": 0.1, "grounding": 0.7},
    )
    beyond = replace(candidate(document, "Who eats bread?", "People.", 0), strategy="expansion")
    last = candidate(document, "What slows the yeast down?", "Salt does.", 1)
    return [last, beyond, judged, about]


def shown(what: RenderableType, width: int) -> str:
    out = console(width=width)
    out.file = StringIO()
    out.print(what)
    return out.file.getvalue()


def explained(document: Document, question: str) -> str:
    items = [*((item, "staged") for item in staged(document)), *((item, "applied") for item in applied(document))]
    (one,) = [item for item in items if item[0].pair.question == question]
    return " ".join(shown(explain(document, *one), 200).split())


def test_pairs_are_listed_in_file_order_with_their_sentences(document: Document) -> None:
    stage(document, all_pairs(document), AT)
    rows = listing.listed(document)
    assert [(row.item.pair.question, row.found.line if row.found else None) for row in rows] == [
        ("What has yeast?", 8), ("What does the yeast make?", 9), ("Who eats bread?", None),
        ("What slows the yeast down?", 12),
    ]  # fmt: skip
    assert document.path
    apply(document.path, [rows[1].item.section_id])
    after = listing.listed(read(document.path))
    assert [row.item.pair for row in after] == [row.item.pair for row in rows]
    assert [row.state for row in after] == ["staged", "applied", "staged", "staged"]


def test_pairs_whose_prose_is_gone_come_last(document: Document) -> None:
    stage(document, all_pairs(document), AT)
    assert document.path
    document.path.write_text(TEXT.replace("A starter has", "A starter contains"), encoding="utf-8")
    rows = listing.listed(read(document.path))
    assert [row.item.pair.question for row in rows if row.section] == ["What slows the yeast down?"]
    text = shown(listing.blocks(rows, 80), 80)
    before, heading, after = text.partition("Prose no longer in the document")
    assert heading and "Salt does." in before and YEAST in after
    assert "no longer in the document" in explained(read(document.path), "What does the yeast make?")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_block_shows_everything_and_fits(document: Document, width: int) -> None:
    stage(document, all_pairs(document), AT)
    rows = listing.listed(document)
    text = shown(listing.blocks(rows, width), width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for row in rows:
        assert row.item.section_id[:8] in text and " ".join(row.item.pair.question.split()[:2]) in flat
    assert "Line 6: Bread\n" in text and "Line 12: Salt slows the yeast down.\n" in text
    if width == 120:
        for part in (
            "line 8: [A starter has yeast.] The yeast makes gas, ",
            "line 9: A starter has yeast. [The yeast … the dough.] The bacteria make acids.",
            "margin -0.40  grounding 3.17  overlap 1.00  lead 0.40  hf:a/model, extraction",
            "hf:a/model, expansion",
        ):
            assert part in text.replace("\N{NO-BREAK SPACE}", " ")


def test_what_all_pairs_have_in_common_is_shown_once(document: Document) -> None:
    stage(document, all_pairs(document)[2:], AT)
    text = shown(listing.blocks(listing.listed(document), 100), 100)
    assert text.startswith("All by hf:a/model, extraction.\n") and text.count("hf:a/model") == 1


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_can_be_listed(question: str, answer: str) -> None:
    item = staged_pair(question, answer)
    rows = [listing.Listed(item, "staged", None, None)]
    text = shown(listing.blocks(rows, 80), 80)
    assert "\x1b" not in text and item.section_id[:8] in text
    listing.table(rows)


def staged_pair(question: str, answer: str) -> listing.Staged:
    return listing.Staged("ab" * 8, QAPair(question, answer), "t", "extraction", "", "cd" * 8)


def test_each_score_and_each_check_is_explained() -> None:
    """A new field of `Scores` needs a line in `SCORES`, a new stage without a judge one in `CHECKS`."""
    assert {field.name for field in fields(Scores)} - {"runner_up"} == set(SCORES)
    of_judge = {"judge", "threshold", "grounding", "ending", "novelty"}
    assert set(get_args(Stage)) - of_judge - {"surplus"} == set(CHECKS)
    assert numbers(replace(SCORED, lead=None)) == {"margin": "-0.40", "grounding": "3.17", "overlap": "1.00"}
    assert numbers(None) == {}


def test_a_question_about_a_sentence_is_explained_staged_and_applied(document: Document) -> None:
    stage(document, all_pairs(document), AT)
    question = "What does the yeast make?"
    Ledger(document).record(Request(f"key of {question}", []), Reply(f"key of {question}", " the yeast make? Yes."))
    before = explained(document, question)
    for part in (
        "(staged)",
        f"prose line 9: {YEAST}",
        'opening by rule, from the sentence: "What does"; the teacher wrote the rest: "the yeast make?"',
        "margin -0.40 not checked how much likelier the answer is than",
        "lead 0.40 ≥ -0.10: passed how much more the question favours its sentence",
        "runner-up The bacteria make acids.",
        "question it is understood without the text",
    ):
        assert part in before, part
    assert document.path
    done = apply(document.path).document
    assert explained(done, question) == before.replace("(staged)", "(applied)")


def test_other_pairs_are_explained_by_what_is_known(document: Document) -> None:
    stage(document, all_pairs(document), AT)
    judged = explained(document, "What has yeast?")
    assert "≥ 0.10: passed" in judged and "≥ 0.70: passed" in judged and "lead" not in judged
    assert "opening" not in judged and "answer it is whole" in judged
    beyond = explained(document, "Who eats bread?")
    assert "prose line 6, but not the answer" in beyond and "--filter none makes only the first" in beyond
    asked = replace(candidate(document, "What slows the yeast?", "Salt slows the yeast down.", 1))
    stage(document, [asked], AT)
    assert "none known: the teacher wrote the whole question" in explained(document, "What slows the yeast?")
    elsewhere = replace(staged_pair("Who?", "Me."), source_section_id=document.sections[0].section_id)
    assert "Another program staged it" in shown(explain(document, elsewhere, "staged"), 100)
    old = replace(elsewhere, request_key="k", scores=SCORED)
    assert "An earlier version staged the pair, without their limits." in shown(explain(document, old, "staged"), 100)
