"""Rejected pairs are kept with their reason until they are accepted, staged or in the document."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dlm_trl.notes import DlmError, Document, read
from dlm_trl.notes.store import synth_dir
from dlm_trl.synth import SynthSettings, synthesize
from dlm_trl.synth.apply import apply
from dlm_trl.synth.pairs import QAPair, Scores
from dlm_trl.synth.rejected import Rejected, forget, keep, rejected
from dlm_trl.synth.staging import Staged, as_staged, drop, edited, restage, stage, staged
from tests.synth import writer
from tests.synth.test_apply import AT, candidate
from tests.synth.writer import asked, listed
from tests.teachers.servers import App, Call


@pytest.fixture
def notes(tmp_path: Path) -> Document:
    return read(writer.notes(tmp_path / "notes.dlm", "Alder", "Birch"))


def numbered(document: Document, i: int) -> Rejected:
    scores = Scores(float("-inf"), 0.5, 1.0, -0.1, "Another sentence.")
    one = replace(candidate(QAPair(f"What is {i}?", f"A number, {i}.")), scores=scores, limits={"margin": 0.1})
    return Rejected(*as_staged(document, [one], AT), "judge", f"margin not above 0: {i}")


def test_they_are_read_as_they_were_kept_each_once_with_the_last_reason(notes: Document) -> None:
    one, two = numbered(notes, 1), numbered(notes, 2)
    assert rejected(notes) == []
    keep(notes, [one, two])
    again = replace(one, stage="duplicate", reason="the same as another pair: line 5")
    keep(notes, [again])
    assert rejected(notes) == [again, two]
    before = (synth_dir(notes.frontmatter.dlm_id) / "rejected.jsonl").stat().st_mtime_ns
    keep(notes, [two], accepted=["0" * 16])
    assert (synth_dir(notes.frontmatter.dlm_id) / "rejected.jsonl").stat().st_mtime_ns == before
    forget(notes, [one.item.section_id])
    assert rejected(notes) == [two]


def test_those_that_are_staged_or_in_the_document_are_left_out(notes: Document) -> None:
    assert notes.path
    lost = [numbered(notes, i) for i in range(3)]
    keep(notes, lost)
    restage(notes, lost[0].item)
    restage(notes, edited(lost[1].item, QAPair("What is one?", "A number.")))
    assert rejected(notes) == lost[2:]
    apply(notes.path)
    assert rejected(read(notes.path)) == lost[2:]


@pytest.mark.parametrize("line", ["no json", '{"stage": "judge"}', "[]", ""])
def test_a_damaged_line_is_named(notes: Document, line: str) -> None:
    keep(notes, [numbered(notes, 1)])
    path = synth_dir(notes.frontmatter.dlm_id) / "rejected.jsonl"
    damaged = f"{path.read_text()}{line}\n"
    path.write_text(damaged)
    for use in (rejected, lambda document: keep(document, [numbered(document, 2)])):
        with pytest.raises(DlmError, match="isn't a rejected pair") as caught:
            use(notes)
        assert (caught.value.kind, caught.value.path, caught.value.line) == ("StagingError", path, 2)
    assert path.read_text() == damaged


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    async def reply(call: Call) -> str:
        topic = writer.topic_of(call)
        pairs = [*writer.written(topic, 1), (f"What does it do, {topic}?", f"{topic} grows."), (f"{topic}?", "\x07")]
        return listed(pairs)

    with asked(App(reply=reply), monkeypatch) as running:
        yield running


def test_a_run_keeps_what_it_rejects_and_forgets_what_it_accepts(app: App, notes: Document) -> None:
    assert notes.path
    settings = SynthSettings(teacher="openai:m", filter="dedup-only", per_section=3)
    done = synthesize(notes.path, settings)
    assert done.counts.kept == 2 and done.counts.guard == 2
    lost = {each.item.pair.question: each for each in rejected(notes)}
    assert list(lost) == ["What does it do, Alder?", "What does it do, Birch?"]  # a file can't contain the others
    one = lost["What does it do, Alder?"]
    assert (one.stage, one.reason) == ("question", "not understood without the text")
    assert one.item.teacher == "openai:m" and one.item.source_section_id == notes.sections[0].section_id
    synthesize(notes.path, settings)
    assert len(rejected(notes)) == 2
    synthesize(notes.path, replace(settings, filter="none"))
    drop(notes, [item.section_id for item in staged(notes)])
    assert rejected(notes) == []


def test_the_pair_that_an_edited_one_replaced_is_not_staged_again(app: App, notes: Document) -> None:
    assert notes.path
    settings = SynthSettings(teacher="openai:m", filter="dedup-only", per_section=3)
    first: Staged = synthesize(notes.path, settings).staged[0]
    new = edited(first, QAPair("Which shade has an alder?", "Brown."))
    restage(notes, new, 0)
    drop(notes, [first.section_id])
    again = synthesize(notes.path, settings)
    assert [loss.reason for loss in again.losses if loss.pair == first.pair] == [
        f"the same as another pair: {new.section_id[:8]}, before it was edited"
    ]
    assert staged(notes)[0] == new
    apply(notes.path, [new.section_id])
    synthesize(notes.path, settings)
    assert first.pair not in [item.pair for item in staged(read(notes.path))]


def test_a_pair_is_restaged_in_its_place(notes: Document) -> None:
    items = stage(notes, [candidate(QAPair(f"What is {i}?", "A number.")) for i in range(3)], AT)
    pending = synth_dir(notes.frontmatter.dlm_id) / "pending.json"
    before = pending.read_bytes()
    drop(notes, [items[1].section_id])
    restage(notes, items[1], 1)
    restage(notes, items[1])
    assert staged(notes) == items and pending.read_bytes() == before
