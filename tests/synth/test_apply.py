"""Applying writes exactly what was staged, and reverting restores the original bytes."""

import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Document, Section, edit, parse, read
from dlm_trl.notes.document import section_id
from dlm_trl.rows.convert import convert
from dlm_trl.synth import apply as apply_module
from dlm_trl.synth.apply import apply, resolve_source, revert
from dlm_trl.synth.guard import Refusal, make_safe
from dlm_trl.synth.pairs import Candidate, QAPair
from dlm_trl.synth.staging import Staged, applied, stage, staged
from tests.notes.test_edit import HEAD, documents
from tests.synth.test_guard import TEXTS

AT = "2026-04-24T10:18:42Z"
PROSE = "421905de9ab75735"  # the id of the prose section `Prose one.`


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.dlm"
    path.write_text(f"{HEAD}\nProse one.\n")
    return path


def candidate(pair: QAPair, teacher: str = "hf:tiny") -> Candidate:
    return Candidate(pair, PROSE, "extraction", "Prose one.", "ab" * 16, 0, teacher)


def stage_numbers(path: Path, *numbers: int, teacher: str = "hf:tiny") -> list[Staged]:
    found = [candidate(QAPair(f"What is {i}?", f"A number, {i}."), teacher) for i in numbers]
    return stage(read(path), found, AT)


def test_a_warning_names_pairs_whose_prose_has_changed(notes: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage_numbers(notes, 1, 2)
    notes.write_text(f"{HEAD}\nProse two.\n")
    assert apply(notes).count == 2 and "the prose of 2 pairs was edited" in caplog.text
    revert(notes)
    caplog.clear()
    notes.write_text(f"{HEAD}\nProse one.\n")
    stage_numbers(notes, 1, 2)
    assert apply(notes).count == 2 and not caplog.text


def questions(document: Document) -> list[str]:
    return [pair.question for section in document.sections for pair in section.pairs()]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents(), st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.data())
@example(parse(f"\ufeff{HEAD}\nProse one.\n\n".replace("\n", "\r\n")), [("a", "b"), ("a", "b")], None)
def test_apply_then_revert_restores_the_original_bytes(
    dlm_home: Path, tmp_path: Path, document: Document, texts: list[tuple[str, str]], data: st.DataObject | None
) -> None:
    shutil.rmtree(dlm_home, ignore_errors=True)
    path = tmp_path / "any.dlm"
    path.write_bytes(document.raw)
    pairs = [safe for text in texts if not isinstance(safe := make_safe(QAPair(*text)), Refusal)]
    items = stage(read(path), [candidate(pair) for pair in pairs], AT)
    assert [item.pair for item in items] == list(dict.fromkeys(pairs))
    some = [item.section_id for item in items]
    if data and items:
        some = data.draw(st.lists(st.sampled_from(some), unique=True))
    done = apply(path, some)
    chosen = [item for item in items if item.section_id in some]
    assert done.pairs == chosen and done.document.raw == path.read_bytes()
    assert staged(done.document) == [item for item in items if item.section_id not in some]
    assert apply(path).count == len(items) - len(some)

    after = read(path)
    n = len(document.sections)
    assert after.raw.startswith(document.raw)
    assert [section.section_id for section in after.sections[:n]] == [s.section_id for s in document.sections]
    new = after.sections[n:]
    assert sorted(s.section_id for s in new) == sorted(item.section_id for item in items)
    assert sorted((p.question, p.answer) for s in new for p in s.pairs()) == sorted(item.pair for item in items)
    for section in document.sections:
        if section.kind == "prose":
            found = resolve_source(after, section.section_id)
            assert found and found.content == section.content

    assert revert(path).count == len(items)
    assert path.read_bytes() == document.raw


def test_apply_writes_the_staged_pairs_by_id_or_all(notes: Path) -> None:
    before = notes.read_bytes()
    items = stage_numbers(notes, 1, 2, 3)
    done = apply(notes, [items[2].section_id[:6], items[0].section_id])
    assert (done.count, done.pairs, done.present) == (2, [items[0], items[2]], [])
    assert questions(read(notes)) == ["What is 1?", "What is 3?"]
    assert staged(read(notes)) == [items[1]]
    assert apply(notes).pairs == [items[1]]
    assert applied(read(notes)) == [items[0], items[2], items[1]]
    assert apply(notes).count == 0
    assert read(notes).sections[1].provenance == {
        "synth_teacher": "hf:tiny",
        "synth_strategy": "extraction",
        "synth_at": AT,
        "source_section_id": PROSE,
    }
    rows = list(convert(read(notes), "sft"))
    assert [row["teacher"] for row in rows] == ["hf:tiny"] * 3 and not list(convert(read(notes), "sft_human"))
    assert revert(notes).count == 3 and notes.read_bytes() == before


def test_revert_removes_only_synthesised_pairs_all_or_selected(notes: Path) -> None:
    mine = "::instruction::\n### Q\nMine?\n### A\nYes."
    edit.append(notes, mine, '::instruction::\n<!-- dlm-auto-harvest: source="x" -->\n### Q\nFound?\n### A\nYes.')
    before = notes.read_bytes()
    one, two = stage_numbers(notes, 1, 2)
    stage_numbers(notes, 3, 4, teacher="openai:x")
    apply(notes)
    edit.append(notes, mine.replace("Mine", "Later"))
    done = revert(notes, teacher="openai:x")
    assert (done.count, questions(done.document)) == (2, ["Mine?", "Found?", "What is 1?", "What is 2?", "Later?"])
    assert revert(notes, teacher="openai:x").count == revert(notes, [one.section_id[:5]], "openai:x").count == 0
    assert [section.section_id for section in revert(notes, [one.section_id[:5]]).sections] == [one.section_id]
    assert questions(read(notes)) == ["Mine?", "Found?", "What is 2?", "Later?"]
    assert revert(notes).count == 1
    assert notes.read_bytes() == before + f"{mine.replace('Mine', 'Later')}\n".encode()
    for ids in ([two.section_id], [read(notes).sections[1].section_id]):  # gone; somebody's own
        with pytest.raises(DlmError, match="No id starts with"):
            revert(notes, ids)


def test_a_pair_is_recognised_with_blank_lines_after_it(notes: Path) -> None:
    before = notes.read_bytes()
    items = stage_numbers(notes, 1, 2)
    apply(notes)
    notes.write_text(f"{notes.read_text()}\n\n::prose::\nMore.\n")
    assert applied(read(notes)) == items
    assert stage_numbers(notes, 1, 2) == [] and apply(notes).count == 0
    assert revert(notes, [items[1].section_id]).count == 1
    assert questions(read(notes)) == ["What is 1?"]
    assert revert(notes).count == 1 and notes.read_bytes() == before + b"::prose::\nMore.\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_added_after_a_pair_is_not_removed_with_it(notes: Path, newline: str) -> None:
    stage_numbers(notes, 1, 2)
    apply(notes)
    whole = notes.read_text()
    notes.write_bytes(f"{whole} \n\nAt the end I write on.\nAnd on.\n".replace("\n", newline).encode())
    edited = notes.read_bytes()
    with pytest.raises(DlmError, match="would be removed with it") as caught:
        revert(notes)
    assert (caught.value.kind, caught.value.path) == ("StagingError", notes)
    assert edited.decode().split(newline)[(caught.value.line or 0) - 1] == "At the end I write on."
    assert notes.read_bytes() == edited
    assert revert(notes, teacher="openai:x").count == 0
    (three,) = stage_numbers(notes, 3)
    apply(notes)
    assert revert(notes, [three.section_id]).count == 1 and notes.read_bytes() == edited

    notes.write_bytes(edited.replace(b"At the", f"::prose::{newline}At the".encode()))
    assert revert(notes).count == 2
    assert [section.content for section in read(notes).sections] == ["Prose one.", "At the end I write on.\nAnd on."]
    notes.write_text(f"{whole} \n\t\n")
    assert revert(notes).count == 2


def test_unknown_ids_change_nothing(notes: Path) -> None:
    items = stage_numbers(notes, 1, 2)
    before = notes.read_bytes()
    with pytest.raises(DlmError) as caught:
        apply(notes, [items[0].section_id, "zz"])
    assert caught.value.kind == "UsageError"
    assert notes.read_bytes() == before and staged(read(notes)) == items


def apply_and_die(path: Path) -> None:
    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    apply_module.drop = die  # type: ignore[assignment]
    apply(path)


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_a_kill_between_file_and_staging_applies_nothing_twice(notes: Path) -> None:
    items = stage_numbers(notes, 1, 2)
    process = get_context("fork").Process(target=apply_and_die, args=(notes,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    after = notes.read_bytes()
    assert questions(read(notes)) == ["What is 1?", "What is 2?"]
    assert staged(read(notes)) == items
    stage_numbers(notes, 3)
    done = apply(notes)
    assert (done.count, done.present) == (1, items) and staged(done.document) == []
    assert questions(done.document) == ["What is 1?", "What is 2?", "What is 3?"]
    assert notes.read_bytes().startswith(after)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda text: text.replace("A number, 2.", "x\\n::prose::\\ny"), "StagingError"),
        (lambda text: text.replace("A number, 2.", "x\\n```"), "StagingError"),
        (lambda text: text.replace("A number, 2.", "a\\u0000b"), "StagingError"),
        (lambda text: text.replace("hf:tiny", 'hf:\\"tiny'), "UsageError"),
        (lambda text: text.replace('"extraction"', '"a\\" b=\\""'), "EditError"),
        (lambda text: text.replace(AT, "today"), "EditError"),
    ],
)
def test_a_staged_pair_that_no_file_can_contain_is_refused(
    notes: Path, change: Callable[[str], str], kind: str, dlm_home: Path
) -> None:
    stage_numbers(notes, 1, 2)
    (pending,) = dlm_home.rglob("pending.json")
    text = change(pending.read_text())
    assert text != pending.read_text()
    pending.write_text(text)
    before = notes.read_bytes()
    with pytest.raises(DlmError) as caught:
        apply(notes)
    assert caught.value.kind == kind and caught.value.hint
    assert notes.read_bytes() == before and pending.read_text() == text


def test_a_file_that_cannot_be_written_keeps_what_is_staged(notes: Path) -> None:
    items = stage_numbers(notes, 1)
    notes.with_name(".notes.dlm.tmp").mkdir()
    with pytest.raises(DlmError) as caught:
        apply(notes)
    assert caught.value.kind == "DlmWriteError"
    assert staged(read(notes)) == items and not applied(read(notes))


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n\n\n"])
def test_a_pairs_source_is_found_with_blank_lines_after_it(end: str) -> None:
    def resolved(text: str) -> Section | None:
        return resolve_source(parse(f"{HEAD}\n{text}"), PROSE)

    found = resolved(f"Prose one.{end}\n::prose::\nProse two.")
    assert found and found.content == f"Prose one.{end}"
    assert resolved(f"Other.\n::prose::\nProse one.\n{end}::prose::\nProse one.") is not None
    assert resolved("Prose one, changed.") is None
    assert resolved("::instruction::\n### Q\nProse one.\n### A\nx") is None
    assert section_id("prose", "Prose one.") == PROSE
    less = resolve_source(parse(f"{HEAD}\nProse one.{end}"), section_id("prose", "Prose one.\n"))
    assert less and less.content == "Prose one." + end[1:]
    exact = resolved(f"Prose one.\n{end}\n::prose::\nProse one.")
    assert exact and exact.content == "Prose one."
