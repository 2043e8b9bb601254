"""Whenever a run is killed, finished requests are kept, and the next run resumes from them."""

import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Document, parse, read, store
from dlm_trl.notes.files import locked
from dlm_trl.synth import ledger as ledger_module
from dlm_trl.synth.batch_records import submitted, to_submit, unanswered
from dlm_trl.synth.ledger import Ledger, request_key, run_lock
from dlm_trl.teachers.protocol import Reply, Request, Usage

ID = "01JTRX0000000000000000000A"
TEXT = f"---\ndlm_id: {ID}\nbase_model: tiny\n---\nDew forms.\n"
MESSAGES = [{"role": "user", "content": "Write about dew."}]

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


@pytest.fixture
def notes(tmp_path: Path) -> Document:
    path = tmp_path / "notes.dlm"
    path.write_text(TEXT)
    return read(path)


class NamedTeacher:
    """A teacher with only what a key depends on."""

    context = None

    def __init__(self, reference: str = "hf:tiny", revision: str = "1") -> None:
        self.reference, self.revision = reference, revision

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        raise NotImplementedError

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        return None


def finished(i: int, text: str = "[]") -> tuple[Request, Reply]:
    return Request(f"key {i}", MESSAGES), Reply(f"key {i}", text, Usage(10, i), 0.5)


def started(work: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def test_opening_writes_nothing_and_replies_round_trip(notes: Document, dlm_home: Path) -> None:
    ledger = Ledger(notes)
    assert ledger.get("key 1") is None and not dlm_home.exists()
    request, reply = finished(1, "half \ud83d a pair\u2028 and é\n")
    ledger.record(request, reply, section_id="421905de9ab75735")
    for again in (ledger, Ledger(notes)):
        assert again.get("key 1") == reply and len(again) == 1
    header, line = ledger.path.read_text(encoding="ascii").splitlines()
    assert json.loads(header) == {"ledger": 1, "dlm_id": ID, "source_path": str(notes.path)}
    entry = next(ledger.entries())
    assert entry == json.loads(line)
    assert entry["messages"] == MESSAGES and entry["facts"] == {"section_id": "421905de9ab75735"}
    assert ledger.path.parent == store.synth_dir(ID)
    for lost in ("facts", "at"):  # a damaged line keeps its reply, but can't be shown
        damaged = {name: value for name, value in entry.items() if name != lost}
        ledger.path.write_text(f"{header}\n{json.dumps(damaged)}\n", encoding="ascii")
        assert Ledger(notes).get("key 1") == reply and list(Ledger(notes).entries()) == []


@given(st.text(st.characters(exclude_categories=[])), st.floats(0, 9), st.integers(0))
def test_any_text_round_trips(text: str, seconds: float, tokens: int) -> None:
    line = {"key": text, "text": text, "seconds": seconds, "prompt_tokens": tokens, "completion_tokens": 0}
    reply = ledger_module._reply(json.loads(json.dumps(line).encode()))
    assert reply == Reply(text, text, Usage(tokens, 0), seconds)


def test_failed_requests_are_not_recorded_and_the_later_reply_counts(notes: Document) -> None:
    ledger = Ledger(notes)
    request, reply = finished(1)
    ledger.record(request, Reply("key 1", error="refused"))
    assert ledger.get("key 1") is None and not ledger.path.exists()
    ledger.record(request, reply)
    ledger.record(*finished(1, "fresh"))
    for again in (ledger, Ledger(notes)):
        assert (found := again.get("key 1")) and found.text == "fresh"


def test_a_batch_is_open_until_each_of_its_requests_is_answered_or_given_up(notes: Document) -> None:
    ledger = Ledger(notes)
    keys = ["key 1", "key 2", "key 3"]
    first, second = to_submit(keys, "2026-11-30T18:00:00Z"), to_submit(["key 3"], "2026-11-30T19:00:00Z")
    ledger.record(*finished(3, "before"))
    for line in (first, submitted(first["batch"], "id 1")):
        ledger.record_batch(line)
    assert (ledger.batches.of(keys), ledger.batches.open([*keys, "x"])) == ([ledger.batches[first["batch"]]], set(keys))
    ledger.record_batch(second)  # the third request again: the newer batch counts
    assert [batch.id for batch in ledger.batches.of(keys)] == ["id 1", None] and ledger.batches.ids == {"id 1"}
    ledger.record(*finished(1))
    ledger.record_batch(unanswered(first["batch"], ["key 2", "key 3"]))
    for damaged in ({"batch": 1}, {"batch": "x", "id": "y"}, {"batch": "z", "at": "", "keys": [{}]}):
        ledger.record_batch(damaged)
    for again in (ledger, Ledger(notes)):
        (batch,) = again.batches.of(keys)
        assert (batch.label, batch.at, batch.size) == (second["batch"], second["at"], 1) and batch.open == {"key 3"}
        assert again.batches.open(keys) == {"key 3"} and len(again) == 2
    assert [entry["key"] for entry in ledger.entries()] == ["key 3", "key 1"]
    ledger.record(*finished(3))
    assert ledger.batches.of(keys) == Ledger(notes).batches.of(keys) == []


def test_a_key_changes_with_everything_that_decides_a_reply() -> None:
    def key(**changes: object) -> str:
        given = {"prompt_version": 1, "messages": MESSAGES, "max_new_tokens": 9, "temperature": 0.5, "top_p": None}
        return request_key(**{"teacher": NamedTeacher(), **given, "seed": None, "schema": None, **changes})

    changed: list[dict[str, object]] = [
        {"teacher": NamedTeacher("hf:other")},
        {"teacher": NamedTeacher(revision="2")},
        {"prompt_version": 2},
        {"messages": [{"role": "user", "content": "Write about hail."}]},
        {"messages": [*MESSAGES, *MESSAGES]},
        {"messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]},
        {"max_new_tokens": 10},
        {"temperature": 0.6},
        {"top_p": 0.9},
        {"seed": 0},
        {"schema": {"type": "object"}},
        {"schema": {"type": "array"}},
    ]
    keys = [key(), *(key(**change) for change in changed)]
    assert len(set(keys)) == len(keys) and all(len(k) == 32 for k in keys)
    assert key(temperature=1) == key(temperature=1.0) and key() == key()


def test_a_torn_line_costs_only_that_line(notes: Document) -> None:
    ledger = Ledger(notes)
    for i in range(3):
        ledger.record(*finished(i, "x" * 9))
    whole = ledger.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (*range(0, len(lines[0]), 9), *range(len(whole) - len(lines[-1]), len(whole), 9), len(whole) - 1):
        ledger.path.write_bytes(whole[:cut])
        left = Ledger(notes)
        assert len(left) == (2 if cut >= len(lines[0]) else 0)
        assert ledger.path.read_bytes() == whole[:cut], "opening writes nothing"
        left.record(*finished(7))
        healed = ledger.path.read_bytes().splitlines()
        assert [json.loads(line).get("key", "header") for line in healed] == [
            "header",
            *(["key 0", "key 1"] if cut >= len(lines[0]) else []),
            "key 7",
        ]


def test_damaged_lines_in_the_middle_are_kept_and_skipped_with_one_warning(
    notes: Document, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(notes)
    ledger.record(*finished(1))
    damage = [b"garbage", b"\xff\xfe", b"[" * 100_000, b'{"key": "key 9"', b"[1]", b""]
    with open(ledger.path, "ab") as file:
        file.write(b"\n".join(damage) + b'\n{"key": 5, "text": null}\n')
    before = ledger.path.read_bytes()
    Ledger(notes).record(*finished(2))
    assert ["6 damaged lines" in r.getMessage() for r in caplog.records] == [True]
    assert ledger.path.read_bytes().startswith(before)
    again = Ledger(notes)
    assert len(again) == 2 and [entry["key"] for entry in again.entries()] == ["key 1", "key 2"]


@pytest.mark.parametrize("what", ["version", "folder"])
def test_a_ledger_that_cannot_be_used_is_one_clear_error(notes: Document, what: str) -> None:
    path = store.synth_dir(ID) / "ledger.jsonl"
    if what == "folder":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True)
        path.write_text('{"ledger": 2}\n')
    with pytest.raises(DlmError) as caught:
        Ledger(notes)
    assert (caught.value.kind, caught.value.path) == ("LedgerError", path)


def record_for_ever(path: Path, first: int) -> None:
    ledger = Ledger(read(path))
    for i in range(first, 10**9, 2):
        ledger.record(*finished(i, "x" * 5000))


@posix
def test_kills_at_any_moment_lose_nothing_finished(notes: Document) -> None:
    assert notes.path
    seen: set[str] = set()
    for delay in (0.03, 0.05, 0.08, 0.13):
        writers = [started(record_for_ever, notes.path, first) for first in (0, 1)]
        time.sleep(delay)
        for writer in writers:
            writer.kill()
            writer.join()
        ledger = Ledger(notes)
        keys = {entry["key"] for entry in ledger.entries()}
        assert seen <= keys and all((found := ledger.get(key)) and len(found.text) == 5000 for key in keys)
        seen = keys
    Ledger(notes).record(*finished(-1))
    assert all(json.loads(line) for line in Ledger(notes).path.read_bytes().splitlines())


def record_some(path: Path, first: int) -> None:
    ledger = Ledger(read(path))
    for i in range(first, first + 20):
        ledger.record(*finished(i, "x" * 50_000))


@posix
def test_processes_append_whole_lines_concurrently(notes: Document, caplog: pytest.LogCaptureFixture) -> None:
    assert notes.path
    writers = [started(record_some, notes.path, first) for first in (0, 100)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(Ledger(notes)) == 40 and not caplog.records


def write_slowly(path: Path, ready: str, done: str) -> None:
    with locked(path):
        with open(path, "ab") as file:
            file.write(b'{"key": "half a ')
            file.flush()
            Path(ready).touch()
            time.sleep(0.2)
            file.write(b'line"}\n')
        Path(done).touch()


@posix
def test_a_line_being_written_is_not_taken_for_a_torn_one(notes: Document, tmp_path: Path) -> None:
    ledger = Ledger(notes)
    ledger.record(*finished(1))
    ready, done = tmp_path / "ready", tmp_path / "done"
    writer = started(write_slowly, ledger.path, str(ready), str(done))
    while not ready.exists():
        time.sleep(0.01)
    ledger.record(*finished(2))
    assert done.exists()
    writer.join()
    assert ledger.path.read_bytes().count(b'{"key": "half a line"}\n{"key": "key 2"') == 1


def record_until_full(path: Path, room: int) -> None:
    import resource

    ledger = Ledger(read(path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        for i in range(1000):
            ledger.record(*finished(i, "x" * 5000))
    except DlmError as error:
        assert (error.kind, error.path) == ("DlmWriteError", ledger.path)
        assert "File too large" in error.message
        assert ledger.get(f"key {i}") is None and len(ledger) == i
        os._exit(0)
    os._exit(1)


@posix
@pytest.mark.parametrize(("room", "fit"), [(10, 0), (23_000, 4)])
def test_a_full_disk_is_an_error_with_the_path_and_loses_nothing(notes: Document, room: int, fit: int) -> None:
    assert notes.path
    writer = started(record_until_full, notes.path, room)
    writer.join()
    assert writer.exitcode == 0
    ledger = Ledger(notes)
    assert [entry["key"] for entry in ledger.entries()] == [f"key {i}" for i in range(fit)]
    assert len(ledger.path.read_bytes().split(b"\n")) == (fit + 2 if fit else 1), "no torn line is left"
    assert not fit or ledger.path.read_bytes().endswith(b"\n")
    ledger.record(*finished(999))
    assert len(Ledger(notes)) == fit + 1


def hold(seconds: float, ready: str) -> None:
    with run_lock(ID):
        Path(ready).touch()
        time.sleep(seconds)


@posix
def test_a_second_run_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready = tmp_path / "ready"
    first = started(hold, 1.5, str(ready))
    while not ready.exists():
        time.sleep(0.01)
    with run_lock(ID, seconds=30):
        assert not first.is_alive() or first.join(5) is None
    assert f"Process {first.pid} on" in caplog.text


@posix
def test_a_second_run_names_the_process_it_waits_for(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    first = started(hold, 600, str(ready))
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(DlmError, match=f"Process {first.pid} on") as caught, run_lock(ID, seconds=0.1):
        pass
    assert caught.value.kind == "LedgerError"
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with run_lock(ID, seconds=0):
        pass


def test_a_copy_is_refused_while_the_other_file_exists(
    notes: Document, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert notes.path
    Ledger(notes).record(*finished(1))
    copy = tmp_path / "copy.dlm"
    copy.write_text(TEXT)
    for text in (TEXT, f"{TEXT}::instruction::\n```\nunfinished"):
        notes.path.write_text(text)
        with pytest.raises(DlmError, match=f"{notes.path}, and {copy}") as caught:
            Ledger(read(copy))
        assert caught.value.kind == "LedgerError"

    notes.path.write_text(TEXT)
    for make in (os.symlink, os.link):  # the same file by another name
        make(notes.path, link := tmp_path / f"{make.__name__}.dlm")
        assert len(Ledger(read(link))) == 1
    assert not caplog.records
    notes.path.write_text(TEXT.replace(ID, ID[:-1] + "B"))  # another document now
    with caplog.at_level(logging.WARNING):
        assert len(Ledger(read(copy))) == 1
    assert len(caplog.records) == 1


def test_a_moved_document_takes_its_ledger_with_it(
    notes: Document, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert notes.path
    Ledger(notes).record(*finished(1))
    moved = read(notes.path.rename(tmp_path / "moved.dlm"))
    Ledger(moved)
    ledger = Ledger(moved)  # warns only once
    assert ledger.get("key 1")
    assert [f"using it for {moved.path}" in r.getMessage() for r in caplog.records] == [True]
    ledger.record(*finished(2))
    ledger.record(*finished(3))
    caplog.clear()
    assert len(Ledger(moved)) == 3 and not caplog.records
    notes.path.write_text(TEXT)  # now the copy is at the old path
    with pytest.raises(DlmError, match=f"{moved.path}, and {notes.path}"):
        Ledger(notes)


def test_a_document_in_memory_has_no_ledger() -> None:
    with pytest.raises(DlmError, match="not read from a file"):
        Ledger(parse(TEXT))
