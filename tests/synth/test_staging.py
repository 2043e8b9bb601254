"""Staged pairs are stored in the format's own file, byte for byte; nothing staged is overwritten or lost."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from dlm_trl.notes import DlmError, Document, edit, read, store
from dlm_trl.synth.guard import synth_section
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.staging import Staged, applied, clear, drop, resolve_ids, stage, staged

ID = "01JTRX0000000000000000000A"
TEXT = f"---\ndlm_id: {ID}\ndlm_version: 15\nbase_model: smollm2-135m\n---\nDew is water that condenses overnight.\n"
# Written by `save_pending_plan` of the package `document-language-model`, version 0.10.0.
REFERENCE = Path(__file__).parents[1] / "data" / "pending.json"
REFERENCE_PAIRS = [
    QAPair("What is dew?", 'Water that condenses\n\novernight – at 0 °C it is "hoar frost".'),
    QAPair("When does dew form?", "At night 🙂."),
]
AT = "2026-04-24T10:18:42Z"


@pytest.fixture
def notes(tmp_path: Path) -> Document:
    path = tmp_path / "notes.dlm"
    path.write_text(TEXT)
    return read(path)


@pytest.fixture
def pending() -> Path:
    path = store.synth_dir(ID) / "pending.json"
    path.parent.mkdir(parents=True)
    return path


def candidate(pair: QAPair, scores: Scores | None = None) -> Candidate:
    origin = {"request_key": "ab" * 16, "index": 1, "teacher": "hf:org/model"}
    return Candidate(pair, "8a2ddcb42cabaf7d", "extraction", "Dew is water.", **origin, scores=scores)


def numbered(i: int, scores: Scores | None = None) -> Candidate:
    return candidate(QAPair(f"What is {i}?", f"A number, {i}."), scores)


def test_staging_is_compatible_with_the_reference_in_both_directions(notes: Document, pending: Path) -> None:
    reference = REFERENCE.read_text("ascii")
    pending.write_text(reference.replace("/home/user/notes.dlm", str(notes.path)))
    assert [
        (item.pair, item.teacher, item.strategy, item.synth_at, item.source_section_id) for item in staged(notes)
    ] == [(pair, "hf:org/model", "extraction", AT, "8a2ddcb42cabaf7d") for pair in REFERENCE_PAIRS]
    assert all(item.scores is item.request_key is item.index is item.prose_sha is None for item in staged(notes))

    assert clear(notes) == 2 and not pending.exists()
    stage(notes, [candidate(pair) for pair in REFERENCE_PAIRS], AT)
    ours = json.loads(pending.read_text())
    expected = reference.replace("/home/user/notes.dlm", str(notes.path)).replace(
        "2026-04-24T10:19:00Z", ours["created_at"]
    )
    assert pending.read_text() == expected


def test_a_staged_pair_keeps_all_its_data(notes: Document) -> None:
    scores = Scores(1.5, float("-inf"), 0.25, -0.1, "Dew is wet.")
    (added,) = stage(notes, [replace(numbered(1, scores), limits={"lead": -0.6})], AT)
    assert added == Staged(
        added.section_id,
        QAPair("What is 1?", "A number, 1."),
        "hf:org/model",
        "extraction",
        AT,
        "8a2ddcb42cabaf7d",
        None,
        scores,
        "ab" * 16,
        1,
        hashlib.sha256(b"Dew is water.").hexdigest(),
        {"lead": -0.6},
    )
    assert staged(notes) == [added]
    assert (stage(notes, [numbered(2)], AT)[0].scores, staged(notes)[0]) == (None, added)


def test_scores_of_an_earlier_version_have_no_limits(notes: Document, pending: Path) -> None:
    stage(notes, [numbered(1, Scores(1.5, 0.5, 0.25))], AT)
    scores = pending.with_name("pending_scores.json")
    stored = json.loads(scores.read_text())
    for origin in stored.values():
        del origin["limits"], origin["scores"]["lead"], origin["scores"]["runner_up"]
    scores.write_text(json.dumps(stored))
    (item,) = staged(notes)
    assert item.scores == Scores(1.5, 0.5, 0.25) and item.limits is None


def test_staging_adds_without_duplicates(notes: Document) -> None:
    first = stage(notes, [numbered(1), numbered(2)], AT)
    created = json.loads((store.synth_dir(ID) / "pending.json").read_text())["created_at"]
    other = replace(numbered(2), teacher="hf:other", scores=Scores(1, 1, 1))
    second = stage(notes, [other, numbered(3), numbered(3)], "2027-01-01T00:00:00Z")
    assert [item.pair.question for item in second] == ["What is 3?"]
    assert staged(notes) == first + second
    assert json.loads((store.synth_dir(ID) / "pending.json").read_text())["created_at"] == created


def test_pairs_in_the_document_are_not_staged(notes: Document) -> None:
    assert notes.path
    marker = {"teacher": "hf:org/model", "strategy": "extraction", "synth_at": AT, "source_section_id": "0" * 16}
    document = edit.append(notes.path, synth_section(numbered(1).pair, **marker))
    assert [item.pair for item in stage(document, [numbered(1), numbered(2)], AT)] == [numbered(2).pair]
    assert stage(document, [numbered(1)], AT) == []


def test_drop_removes_these_pairs_and_an_empty_staging_has_no_file(notes: Document) -> None:
    items = stage(notes, [numbered(i) for i in range(3)], AT)
    path = store.synth_dir(ID) / "pending.json"
    assert drop(notes, [items[1].section_id, "0" * 16]) == 1
    assert staged(notes) == [items[0], items[2]]
    before = path.stat().st_mtime_ns
    assert drop(notes, []) == 0 and path.stat().st_mtime_ns == before
    assert clear(notes) == 2 and staged(notes) == [] and not path.exists()
    assert clear(notes) == 0


def test_reading_writes_nothing(notes: Document, dlm_home: Path) -> None:
    assert staged(notes) == [] == applied(notes)
    assert not dlm_home.exists()


def test_unknown_fields_and_entries_are_kept(notes: Document, pending: Path) -> None:
    theirs = json.loads(REFERENCE.read_text())
    theirs["source_path"] = str(notes.path)
    theirs["sections"][0] |= {"start_line": 7, "tags": {"a": "b"}, "new": [1]}
    theirs["sections"][1]["content"] = "\n### Q\n\nWhen?\n\n### A\nAt night.\n\n"
    pending.write_text(json.dumps(theirs | {"also": 1}))
    stage(notes, [numbered(1)], AT)
    assert json.loads(pending.read_text())["sections"][:2] == theirs["sections"]
    assert json.loads(pending.read_text())["also"] == 1
    odd = staged(notes)[1]
    assert odd.pair == QAPair("When?", "At night.")
    marker = {"teacher": "t", "strategy": "extraction", "synth_at": AT, "source_section_id": "0" * 16}
    assert edit.append(notes, synth_section(odd.pair, **marker)).sections[-1].section_id == odd.section_id
    assert drop(read(str(notes.path)), [odd.section_id]) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda plan: "no json", "Invalid JSON"),
        (lambda plan: "", "Invalid JSON"),
        (lambda plan: [plan], "should be an object"),
        (lambda plan: plan | {"schema_version": 2}, "schema_version"),
        (lambda plan: plan | {"source_path": ""}, "source_path"),
        (lambda plan: plan | {"sections": None}, "sections"),
        (lambda plan: plan | {"sections": [plan["sections"][0], {"type": "prose"}]}, r"sections\.1"),
        (lambda plan: plan["sections"][1].pop("content") and plan, r"sections\.1\.content: Field required"),
        (lambda plan: plan["sections"][1].update(content="### Q\nOnly.") or plan, "Section 2 is not one question"),
        (
            lambda plan: plan["sections"][0].update(content="### Q\na\n### A\nb\n### Q\nc\n### A\nd") or plan,
            "Section 1",
        ),
        (lambda plan: plan["sections"][0].update(adapter="a::") or plan, r"sections\.0\.adapter"),
        (lambda plan: plan["sections"][0].update(source_section_id="X") or plan, r"sections\.0\.source_section_id"),
    ],
)
def test_a_damaged_file_is_named_and_never_written(
    notes: Document, pending: Path, damage: Callable[[dict[str, object]], object], words: str
) -> None:
    damaged = damage(json.loads(REFERENCE.read_text()))
    text = damaged if isinstance(damaged, str) else json.dumps(damaged)
    pending.write_text(text)
    for use in (staged, clear, lambda document: stage(document, [numbered(1)], AT)):
        with pytest.raises(DlmError, match=words) as caught:
            use(notes)
        assert (caught.value.kind, caught.value.path) == ("StagingError", pending)
        assert caught.value.hint
    assert pending.read_text() == text


def test_damaged_scores_are_named_too(notes: Document, pending: Path) -> None:
    scores = pending.with_name("pending_scores.json")
    scores.write_text('{"ab": {"scores": 1}}')
    for use in (staged, applied):
        with pytest.raises(DlmError, match=r"ab\.scores") as caught:
            use(notes)
        assert (caught.value.kind, caught.value.path) == ("StagingError", scores)


def test_another_files_pairs_are_refused_while_it_exists_and_move_with_it(
    notes: Document, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert notes.path
    items = stage(notes, [numbered(1)], AT)
    copy = tmp_path / "copy.dlm"
    copy.write_text(TEXT)
    pending = store.synth_dir(ID) / "pending.json"
    before = pending.read_bytes()
    for use in (staged, clear, lambda document: stage(document, [numbered(2)], AT)):
        with pytest.raises(DlmError, match=f"{notes.path}, and {copy}") as caught:
            use(read(copy))
        assert caught.value.kind == "LedgerError"
    assert pending.read_bytes() == before

    notes.path.unlink()
    assert staged(read(copy)) == items
    assert "using it for" in caplog.text
    stage(read(copy), [numbered(2)], AT)
    caplog.clear()
    assert len(staged(read(copy))) == 2 and not caplog.records
    assert json.loads(pending.read_text())["source_path"] == str(copy)


def test_an_id_prefix_is_enough() -> None:
    known = ["aa11", "aa22", "bb33", "bb33"]
    assert resolve_ids(["bb", "aa1", "b"], known) == ["bb33", "aa11"]
    assert resolve_ids(["AA2"], known) == ["aa22"]
    for prefix, words in (
        ("aa", "aa11, aa22"),
        ("", "starts with ''"),
        ("c", "starts with 'c'"),
        ("aa111", "starts"),
    ):
        with pytest.raises(DlmError, match=words) as caught:
            resolve_ids([prefix], known)
        assert caught.value.kind == "UsageError"
    with pytest.raises(DlmError):
        resolve_ids([""], ["aa11"])  # an empty variable of a shell means no pair


def test_applied_pairs_keep_their_scores(notes: Document) -> None:
    assert notes.path
    (item,) = stage(notes, [numbered(1, Scores(1, 2, 0.5))], AT)
    clear(notes)
    marker = {
        "teacher": item.teacher,
        "strategy": "extraction",
        "synth_at": AT,
        "source_section_id": item.source_section_id,
    }
    document = edit.append(notes, synth_section(item.pair, **marker), "::instruction::\n### Q\nMine?\n### A\nYes.")
    assert applied(document) == [item]


def stage_ten(path: Path, first: int) -> None:
    for i in range(first, first + 10):
        stage(read(path), [numbered(i)], AT)


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_two_processes_that_stage_at_once_lose_nothing(notes: Document) -> None:
    assert notes.path
    writers = [get_context("fork").Process(target=stage_ten, args=(notes.path, first)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert {item.pair.question for item in staged(notes)} == {
        f"What is {i}?" for first in (0, 100) for i in range(first, first + 10)
    }
    assert all(item.request_key for item in staged(notes))


def test_a_store_that_cannot_be_written_is_one_clear_error(notes: Document, dlm_home: Path) -> None:
    dlm_home.write_text("a file where the folder should be")
    with pytest.raises(DlmError) as caught:
        stage(notes, [numbered(1)], AT)
    assert (caught.value.kind, caught.value.path) == ("DlmWriteError", store.synth_dir(ID))
