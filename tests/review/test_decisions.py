"""Decisions are carried out at once, nothing is decided twice, and undo restores the bytes of every file."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, edit, read
from dlm_trl.review.decisions import Review
from dlm_trl.synth import staging
from dlm_trl.synth.apply import apply, revert
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.rejected import rejected
from dlm_trl.synth.staging import applied, restage, staged
from tests.review.pages import PAIRS, TEXT, document
from tests.synth.test_guard import TEXTS

EDITED = QAPair("What lifts a dough?", "Gas.")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    document(tmp_path / "notes.dlm")
    return tmp_path / "notes.dlm"


def everything(path: Path) -> tuple[object, ...]:
    """All that a decision may change."""
    now = read(path)
    return path.read_bytes(), staged(now), applied(now), rejected(now)


def test_accepting_writes_one_pair_as_apply_does(path: Path) -> None:
    items = staged(read(path))
    review = Review(path)
    done = review.accept(items[1].section_id, review.version)
    accepted = path.read_bytes()
    assert (done.was, done.item, done.state, done.is_new) == (items[1].section_id, items[1], "applied", True)
    assert staged(read(path)) == [items[0], items[2]] and applied(read(path)) == [items[1]]
    revert(path)
    restage(read(path), items[1])
    apply(path, [items[1].section_id])
    assert path.read_bytes() == accepted


def test_an_edited_pair_keeps_its_provenance_and_is_marked(path: Path) -> None:
    item = staged(read(path))[1]
    review = Review(path)
    done = review.accept(item.section_id, review.version, EDITED)
    (written,) = applied(read(path))
    assert written == done.item and written.section_id != item.section_id == done.was
    assert (written.pair, written.edited_from) == (EDITED, item.pair)
    same = ("teacher", "strategy", "synth_at", "source_section_id", "scores", "facts", "request_key", "prose_sha")
    assert [getattr(written, name) for name in same] == [getattr(item, name) for name in same]
    assert len(staged(read(path))) == 2
    assert review.undo(review.version).item == item
    assert staged(read(path))[1] == item and path.read_bytes() == TEXT.encode()


def test_texts_that_would_break_the_file_are_made_safe_or_refused(path: Path) -> None:
    item = staged(read(path))[1]
    review = Review(path)
    before = everything(path)
    for bad in (QAPair("", "No question."), QAPair("A bell?", "\x07"), QAPair("Half?", "\ud800")):
        with pytest.raises(DlmError, match="can't be written into the document"):
            review.accept(item.section_id, review.version, bad)
    assert everything(path) == before
    review.accept(item.section_id, review.version, QAPair("Which fence?", "This:\n::prose::\r\n### Q"))
    assert applied(read(path))[0].pair.answer == "This:\n`::prose::`\n#### Q"
    review.undo(review.version)
    assert everything(path) == before


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip("\n"), TEXT.replace("\n", "\r\n"), f"{TEXT}\n\n"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["accept", "drop"]), st.integers(0, 4)),
            st.tuples(st.just("edit"), st.integers(0, 4), TEXTS, TEXTS),
            st.tuples(st.just("undo")),
        ),
        max_size=8,
    )
)
def test_undoing_every_decision_restores_everything(tmp_path: Path, text: str, steps: list[tuple[object, ...]]) -> None:
    path = tmp_path / "notes.dlm"
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    document(path, text)
    before = everything(path)
    review = Review(path)
    ids = [*(item.section_id for item in before[1]), *(each.item.section_id for each in before[3]), "0" * 16]  # type: ignore[attr-defined]
    done = 0
    for what, *rest in steps:
        try:
            match what:
                case "accept":
                    state = "rejected" if rest[0] == 3 else "staged"
                    done += review.accept(ids[rest[0]], 1, None, state).is_new
                case "edit":
                    state = "rejected" if rest[0] == 3 else "staged"
                    done += review.accept(ids[rest[0]], 1, QAPair(*rest[1:]), state).is_new
                case "drop":
                    done += review.drop(ids[rest[0]], 1).is_new
                case "undo":
                    review.undo(1)
                    done -= 1
        except DlmError as error:
            assert error.kind == "ReviewError", error
    assert done == review.count("accept") + review.count("drop")
    assert len(applied(read(path))) == review.count("accept")
    for _ in range(done):
        review.undo(1)
    assert everything(path) == before
    with pytest.raises(DlmError, match="nothing to undo"):
        review.undo(1)


def test_a_rejected_pair_can_be_accepted_all_the_same(path: Path) -> None:
    (lost,) = rejected(read(path))
    before = everything(path)
    review = Review(path)
    assert review.accept(lost.item.section_id, review.version, state="rejected").state == "applied"
    assert applied(read(path)) == [lost.item] and rejected(read(path)) == []
    undone = review.undo(review.version)
    assert (undone.state, undone.stage, undone.reason) == ("rejected", "grounding", lost.reason)
    assert everything(path) == before
    review.accept(lost.item.section_id, review.version, EDITED, "rejected")
    assert applied(read(path))[0].edited_from == lost.item.pair and rejected(read(path)) == []


def test_a_dropped_pair_is_kept_with_the_rejected_ones_after_a_restart(path: Path) -> None:
    item = staged(read(path))[0]
    review = Review(path)
    review.drop(item.section_id, review.version)
    again = Review(path)
    assert [each.item for each in rejected(again.document)][-1] == item
    assert again.accept(item.section_id, again.version, state="rejected").state == "applied"
    assert applied(read(path)) == [item] and len(staged(read(path))) == 2


def test_a_pair_is_decided_about_once(path: Path) -> None:
    first, second, third = (item.section_id for item in staged(read(path)))
    review = Review(path)
    review.accept(first, review.version)
    review.drop(second, review.version)
    edited = review.accept(third, review.version, EDITED).item
    after = everything(path)
    for section_id, state in ((first, "applied"), (second, "rejected"), (third, "applied")):
        for again in (review.drop(section_id, review.version), review.accept(section_id, review.version)):
            assert (again.state, again.is_new, "already" in again.message) == (state, False, True)
    assert review.accept(third, review.version).item == edited
    assert review.accept(edited.section_id, review.version).is_new is False
    assert everything(path) == after and (review.count("accept"), review.count("drop")) == (2, 1)
    with pytest.raises(DlmError, match="another command dropped it"):
        review.accept("0" * 16, review.version)


def test_a_pair_that_the_document_contains_is_not_taken_out_by_undo(path: Path) -> None:
    item = staged(read(path))[0]
    apply(path, [item.section_id])
    restage(read(path), item)  # as if a process had been killed while it applied the pair
    review = Review(path)
    done = review.accept(item.section_id, review.version)
    assert (done.is_new, done.state, len(staged(read(path)))) == (False, "applied", 2)
    with pytest.raises(DlmError, match="nothing to undo"):
        review.undo(review.version)
    other = staged(read(path))[0]
    with pytest.raises(DlmError, match="staged or in the document already"):
        review.accept(other.section_id, review.version, item.pair)


def test_nothing_is_decided_about_a_document_that_was_changed(path: Path) -> None:
    item, other, _ = staged(read(path))
    review = Review(path)
    review.accept(item.section_id, review.version)
    path.write_text(path.read_text().replace("Bakers weigh", "A baker weighs"))
    changed = everything(path)
    for decide in (
        lambda: review.accept(other.section_id, 1),
        lambda: review.drop(other.section_id, 1),
        lambda: review.undo(1),
    ):
        with pytest.raises(DlmError, match=r"changed outside of this page.* Reload the page"):
            decide()
    assert everything(path) == changed
    review.reload()
    assert review.version == 2
    with pytest.raises(DlmError, match="changed outside"):
        review.accept(other.section_id, 1)  # another tab, which still shows the old text
    assert review.undo(2).item == item
    assert path.read_text() == TEXT.replace("Bakers weigh", "A baker weighs")
    review.reload()
    assert review.version == 2  # the page's own changes are none


def test_what_was_written_after_an_accepted_pair_is_not_lost(path: Path) -> None:
    item = staged(read(path))[0]
    review = Review(path)
    review.accept(item.section_id, review.version)
    path.write_text(f"{path.read_text()}And I write on.\n")
    review.reload()
    before = everything(path)
    with pytest.raises(DlmError, match="was edited or removed in the document since"):
        review.undo(review.version)
    assert everything(path) == before


def test_undo_of_a_pair_that_was_removed_outside_goes_on_with_the_one_before(path: Path) -> None:
    first, second, _ = staged(read(path))
    review = Review(path)
    review.accept(first.section_id, review.version)
    review.accept(second.section_id, review.version)
    revert(path, [second.section_id])
    review.reload()
    with pytest.raises(DlmError, match="was edited or removed in the document since"):
        review.undo(review.version)
    assert review.undo(review.version).item == first
    assert path.read_bytes() == TEXT.encode()


def test_a_file_that_cannot_be_written_keeps_everything(path: Path) -> None:
    item = staged(read(path))[0]
    (lost,) = rejected(read(path))
    review = Review(path)
    before = everything(path)
    path.with_name(".notes.dlm.tmp").mkdir()
    for one, pair, state in ((item, None, "staged"), (item, EDITED, "staged"), (lost.item, None, "rejected")):
        with pytest.raises(DlmError) as caught:
            review.accept(one.section_id, review.version, pair, state)
        assert caught.value.kind == "DlmWriteError" and everything(path) == before


def test_dropping_by_a_command_meanwhile_is_noticed(path: Path) -> None:
    item = staged(read(path))[0]
    review = Review(path)
    staging.drop(read(path), [item.section_id])
    edit.append(read(path), f"::prose::\n{PAIRS[0][0]}")
    review.reload()
    with pytest.raises(DlmError, match="another command dropped it"):
        review.accept(item.section_id, review.version)


def test_a_pair_that_was_dropped_and_restored_is_not_kept_as_rejected(path: Path) -> None:
    item = staged(read(path))[0]
    review = Review(path)
    review.drop(item.section_id, review.version)
    review.undo(review.version)
    staging.drop(read(path), [item.section_id])
    assert item not in [each.item for each in rejected(read(path))]
