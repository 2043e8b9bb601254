"""Preferences from two answers: which one is chosen, what is lost, and that the file is restored byte for byte."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_trl import load_dlm
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError, read
from dlm_trl.notes.check import check
from dlm_trl.rows.split import in_validation
from dlm_trl.synth.guard import Refusal
from dlm_trl.synth.judge import Judge
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.preference import prefer
from dlm_trl.synth.preference_choice import Answered, Lost, Made, candidates_of, choose, unusable
from dlm_trl.synth.preference_questions import Question, questions
from dlm_trl.synth.preference_show import whole
from dlm_trl.synth.preference_staging import (
    Preference,
    applied_preferences,
    apply_preferences,
    drop_preferences,
    preference_section,
    revert_preferences,
    safe_preference,
    stage_preferences,
    staged_preferences,
)
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.teachers.protocol import Reply, Request, Usage
from tests.synth.writer import HEAD, asked
from tests.teachers.servers import App, Call

PROSE = "A starter is a mix of flour and water in which wild yeast and bacteria live. It needs about a week."
GOOD = "A mix of flour and water in which wild yeast and bacteria live."
BAD = "The big engine of a green airplane, or so the old king says."
PAIR = "\n::instruction::\n### Q\nWhat is a starter?\n### A\nFlour and water.\n"
SETTINGS = SynthSettings(teacher="openai:m", temperature=0.8, threshold=-9.0, min_grounding=0.1)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(load_base("tiny"), load_tokenizer("tiny"), "hf:tiny")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "notes.dlm"
    path.write_text(HEAD + PROSE + "\n" + PAIR, encoding="utf-8")
    return path


async def reads(call: Call) -> str:
    """An answer that is right when the prose is in the prompt."""
    return GOOD if PROSE in call.prompt else BAD


async def says_the_same(call: Call) -> str:
    return GOOD


async def invents(call: Call) -> str:
    return BAD if PROSE in call.prompt else "A loud song about the sea and the moon."


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with asked(App(reply=reads), monkeypatch) as running:
        yield running


def test_the_answer_that_the_prose_supports_is_chosen(document: Path, judge: Judge, app: App) -> None:
    outcome = prefer(document, SETTINGS, judge=judge)
    assert outcome.counts.sent == len(app.calls) == 2
    (made,) = outcome.preferences
    assert (made.prompt, made.chosen, made.rejected) == ("What is a starter?", GOOD, BAD)
    assert made.chosen_score > made.rejected_score + 0.5
    assert (made.judge, made.teacher, made.run_id) == ("hf:tiny", "openai:m", 1)
    assert staged_preferences(read(document)) == [made]
    shown = str(whole(read(document), made, "staged"))
    assert f"Its prose, line 6:\n{PROSE}\n" in shown
    assert shown.endswith(f"The teacher's reply:\n{GOOD}\n\nThe teacher's reply:\n{BAD}")
    again = prefer(document, SETTINGS, judge=judge)
    assert again.counts.sent == again.counts.sections == 0 and again.skipped == {"has a preference already": 1}
    drop_preferences(read(document), [made.section_id])
    free = prefer(document, SETTINGS, judge=judge)
    assert (free.counts.sent, free.counts.from_ledger, len(free.preferences)) == (0, 2, 1)


@pytest.mark.parametrize(("reply", "stage"), [(says_the_same, "duplicate"), (invents, "grounding")])
def test_without_a_better_right_answer_there_is_no_preference(
    document: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, reply, stage: str
) -> None:
    with asked(App(reply=reply), monkeypatch):
        outcome = prefer(document, SETTINGS, judge=judge)
    assert outcome.preferences == staged_preferences(read(document)) == []
    assert [loss.stage for loss in outcome.losses] == [stage], outcome.losses


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_what_is_applied_is_a_valid_row_and_reverting_restores_every_byte(
    document: Path, newline: str, end: str
) -> None:
    raw = (HEAD + PROSE + "\n" + PAIR.rstrip("\n") + end).replace("\n", newline).encode()
    document.write_bytes(raw)
    item = Preference("What is a starter?", GOOD, BAD, "hf:tiny", 1.25, -0.5, "2026-01-01T00:00:00Z", 1, teacher="t")
    assert stage_preferences(read(document), [item, item]) == [item]
    assert apply_preferences(document) == 1 and staged_preferences(read(document)) == []
    (row,) = load_dlm(str(document), "preference", split="train")
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (GOOD, BAD)
    (applied,) = applied_preferences(read(document))
    assert replace(applied, request_keys=()) == item
    assert not [finding for finding in check(document) if not finding.is_hint]
    assert apply_preferences(document) == 0
    assert revert_preferences(document, teacher="someone else") == []
    assert [section.bare_id for section in revert_preferences(document)] == [item.section_id]
    assert document.read_bytes() == raw


def test_text_that_someone_added_after_a_preference_is_kept(document: Path) -> None:
    item = Preference("What is a starter?", GOOD, BAD, "hf:tiny", 1.0, 0.0, "2026-01-01T00:00:00Z", 1)
    stage_preferences(read(document), [item])
    apply_preferences(document)
    document.write_bytes(document.read_bytes() + b"\nA thought of mine.\n")
    before = document.read_bytes()
    with pytest.raises(DlmError, match=r"This text follows a rejected answer") as caught:
        revert_preferences(document)
    assert before.splitlines()[caught.value.line - 1] == b"A thought of mine."
    assert document.read_bytes() == before


def test_only_questions_with_prose_that_are_not_held_out_are_asked(document: Path) -> None:
    more = [f"\n::instruction::\n### Q\nWhat is starter number {n}?\n### A\nFlour and water, {n}.\n" for n in range(20)]
    document.write_text(HEAD + PROSE + "\n" + "".join(more), encoding="utf-8")
    parsed, skipped = read(document), {}
    asked_about = {question.text for question in questions(parsed, skipped)}
    held_out = {
        section.pairs()[0].question
        for section in parsed.sections
        if section.kind == "instruction" and in_validation(section.bare_id, 0.1, 42)
    }
    assert held_out and not asked_about & held_out
    assert skipped["held out for validation"] == len(held_out)
    document.write_text(HEAD + "\n" + PAIR, encoding="utf-8")
    skipped = {}
    assert questions(read(document), skipped) == []
    assert skipped == {"no sentence of the prose is about it": 1}


def test_the_choice_follows_the_scores() -> None:
    question = Question("What is a starter?", 1, PROSE, "0" * 16, None)
    first, second = (
        Candidate(QAPair(question.text, text), "0" * 16, "extraction", PROSE, key, 0, "t")
        for text, key in ((BAD, "a"), (GOOD, "b"))
    )
    good, bad = Scores(2.0, 2.0, 1.0, ending=-1.0), Scores(0.5, 2.0, 1.0, ending=-1.0)

    def chosen(one: Scores, other: Scores, gap: float = 0.5) -> Made | Lost:
        return choose(question, (first, second), (one, other), SynthSettings(), gap)

    made = chosen(bad, good)
    assert isinstance(made, Made)
    assert (made.texts, made.scores, made.keys) == ((question.text, GOOD, BAD), (2.0, 0.5), ("b", "a"))
    assert chosen(bad, good, gap=1.6) == Lost("threshold", "the answers are too close: 1.50")
    assert chosen(bad, replace(good, grounding=0.1)).stage == "grounding"
    assert chosen(bad, replace(good, ending=-30.0)).stage == "ending"
    assert chosen(replace(bad, margin=-2.0), replace(good, margin=-1.0)).stage == "judge"
    assert chosen(replace(bad, margin=float("-inf")), good).stage == "judge"


@pytest.mark.parametrize("text", ["One.\n### Chosen\nTwo.", "", "Bell \x07"])
def test_answers_that_would_break_the_file_are_refused(text: str) -> None:
    assert isinstance(safe_preference("A question?", text, "Another."), Refusal)
    assert isinstance(safe_preference("A question?", "Another.", text), Refusal)


def test_fences_and_code_in_an_answer_are_made_safe(document: Path) -> None:
    texts = safe_preference("A question?", "See:\n::prose::\nAnd ```", "```\ncode")
    assert not isinstance(texts, Refusal)
    item = Preference(*texts, "j", 1.0, 0.0, "2026-01-01T00:00:00Z", 1)
    stage_preferences(read(document), [item])
    apply_preferences(document)
    assert [applied[:3] for section in read(document).sections for applied in section.triples()] == [texts]
    with pytest.raises(DlmError, match="judge's name"):
        preference_section(replace(item, judge='a"b'))


def test_a_damaged_file_is_reported_with_its_place(document: Path, dlm_home: Path) -> None:
    item = Preference("Q?", "A.", "B.", "j", 1.0, 0.0, "2026-01-01T00:00:00Z", 1)
    stage_preferences(read(document), [item])
    (file,) = dlm_home.rglob("preferences.json")
    file.write_text(file.read_text().replace('"run_id": 1', '"run_id": "x"'))
    with pytest.raises(DlmError, match=r"preferences.json: The file is damaged. staged.0.run_id"):
        staged_preferences(read(document))


def test_a_document_without_questions_is_refused_before_anything_is_loaded(document: Path) -> None:
    document.write_text(HEAD + PROSE, encoding="utf-8")
    with pytest.raises(DlmError, match="no questions to ask"):
        prefer(document, SETTINGS)


def test_an_answer_that_reached_its_limit_is_shortened_to_whole_sentences() -> None:
    question = Question("What is a starter?", 1, PROSE, "0" * 16, None)
    requests = (Request("a", [], max_new_tokens=9), Request("b", [], max_new_tokens=9))

    def answered(first: str, second: str) -> Answered:
        return Answered(question, requests, (Reply("a", first, Usage(1, 9)), Reply("b", second, Usage(1, 5))))

    first, second = candidates_of(answered("It has 2.5 parts. It is made of", "It is made of"), "t")
    assert (first.pair.answer, second.pair.answer) == ("It has 2.5 parts.", "It is made of")
    assert unusable(answered("It is made of", "Flour.")) == Lost(
        "answer", "an answer is empty, or cut off in its first sentence"
    )
    assert unusable(answered("Flour. And", "flour")).stage == "duplicate"
