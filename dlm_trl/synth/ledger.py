"""The ledger of a document: every finished request, so that nothing is requested twice. One JSON record per line.

    with run_lock(dlm_id):                              # one run at a time; others wait
        ledger = Ledger(document)
        reply = ledger.get(request.key)                     # None: not requested yet
        ledger.record(request, reply, section_id=…)         # from here on it survives a kill
        ledger.sync()                                       # and a power loss

`$DLM_HOME/store/<dlm_id>/synth/ledger.jsonl` is only appended to (see `notes.journal`). Its first line names the
document's file. If two lines have the same key, the later one counts. Other lines are about batches of requests (see
`batch_records`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dlm_trl.notes import Document
from dlm_trl.notes.errors import LedgerError, StoreError, UsageError
from dlm_trl.notes.files import LOCK_SECONDS, locked, write_error
from dlm_trl.notes.journal import append, whole_lines
from dlm_trl.notes.parser import read_bytes
from dlm_trl.notes.store import synth_dir
from dlm_trl.synth.batch_records import BatchRecords
from dlm_trl.teachers.protocol import Reply, Request, TeacherInfo, Usage

logger = logging.getLogger(__name__)

SYNC_SECONDS = 1.0  # the most a power loss can cost; syncing after each line would be slower than some teachers


def request_key(
    teacher: TeacherInfo,
    prompt_version: int | str,
    messages: Sequence[Mapping[str, str]],
    max_new_tokens: int,
    temperature: float,
    top_p: float | None,
    seed: int | None,
    schema: Mapping[str, Any] | None,
    opening: str = "",
    stop: tuple[str, ...] = (),
) -> str:
    """The request's key in the ledger: 32 hex digits of a SHA-256 over everything that decides its reply.

    A vLLM fleet counts by its model (the teacher's revision), not by its addresses: replies stay valid when a server
    is added or moves to another port.
    """
    kind, _, _ = teacher.reference.partition(":")
    reference = kind if kind == "vllm-server" else teacher.reference
    conversation = [dict(message) for message in messages]
    sampling = [max_new_tokens, float(temperature), top_p, seed]
    inputs: list[Any] = [reference, teacher.revision, prompt_version, conversation, sampling, schema]
    if opening or stop:
        inputs += [opening, list(stop)]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


class Ledger:
    """The finished requests of a document. Several processes may append to it at the same time."""

    def __init__(self, document: Document) -> None:
        """Read the ledger, without writing anything; damaged lines are skipped with a single warning.

        Raises DlmError (LedgerError) if the ledger belongs to another file with the same dlm_id, can't be read, or has
        another version.
        """
        dlm_id = document.frontmatter.dlm_id
        self.path = synth_dir(dlm_id) / "ledger.jsonl"
        self._replies: dict[str, Reply] = {}
        self.batches = BatchRecords()
        owner: str | None = None
        for line in _records(self.path):
            match line:
                case {"ledger": 1, "source_path": str(path)}:
                    owner = path
                case {"ledger": version}:
                    raise LedgerError(
                        f"The ledger has version {version}, but only version 1 is supported.",
                        hint="Use the version of dlm-trl that wrote it, or move the file away.",
                        path=self.path,
                    )
                case {"batch": _}:
                    self.batches.read(line)
                case _ if reply := _reply(line):
                    self._replies[reply.key] = reply
                    self.batches.answered(reply.key)
        source = source_path(document)
        if owner is not None:
            check_owner(document, owner, self.path)
        # A document that was moved gets a second header, because the ledger is never rewritten.
        header = {"ledger": 1, "dlm_id": dlm_id, "source_path": source}
        self._unwritten = [] if owner == source else [header]
        self._synced = time.monotonic()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to the request with this key, or None."""
        return self._replies.get(key)

    def record(self, request: Request, reply: Reply, **facts: Any) -> None:
        """Append a finished request with these JSON-serialisable facts; a reply with an error is not recorded.

        Survives a kill when this returns, and a power loss after `sync`, or the first record SYNC_SECONDS later. Raises
        DlmError (DlmWriteError) if the disk is full; the ledger is then unchanged.
        """
        if reply.error is not None:
            return
        line = {
            "key": request.key,
            "at": now(),
            "seconds": reply.seconds,
            "prompt_tokens": reply.usage.prompt_tokens,
            "completion_tokens": reply.usage.completion_tokens,
            "text": reply.text,
            "is_truncated": reply.is_truncated,
            "messages": [dict(message) for message in request.messages],
            "max_new_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "facts": facts,
        }
        self._append([*self._unwritten, line])
        self._unwritten = []
        self._replies[request.key] = reply
        self.batches.answered(request.key)

    def record_batch(self, line: dict[str, Any]) -> None:
        """Append a line about a batch; it survives a power loss when this returns. Raises DlmError (DlmWriteError)."""
        self._append([*self._unwritten, line], sync=True)
        self._unwritten = []
        self.batches.read(line)

    def sync(self) -> None:
        """Return once every record is on the disk. Raises DlmError (DlmWriteError)."""
        if self.path.exists():
            self._append(self._unwritten, sync=True)  # after a move, records the new path
            self._unwritten = []

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every finished request as written by `record`, oldest first, read from the disk."""
        for line in _records(self.path):
            if _reply(line) and isinstance(line.get("facts"), dict) and isinstance(line.get("at"), str):
                yield line

    def _append(self, records: Sequence[Mapping[str, Any]], sync: bool = False) -> None:
        make_folder(self.path.parent)
        sync = sync or time.monotonic() - self._synced >= SYNC_SECONDS
        with locked(self.path):
            # ASCII, because a reply may contain lone surrogates, which UTF-8 can't encode, or Unicode line separators.
            append(self.path, records, sync=sync)
        if sync:
            self._synced = time.monotonic()


@contextmanager
def run_lock(dlm_id: str, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock for synthesis runs on this document, waiting up to `seconds` for another run to finish.

    A warning names the process it waits for. Raises DlmError (LedgerError) if that process still holds the lock.
    """
    folder = synth_dir(dlm_id)
    make_folder(folder)
    lock, holder = FileLock(folder / ".run.lock"), folder / ".run.holder"
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s is using this document; waiting up to %g seconds.", _read_holder(holder), seconds)
            lock.acquire(timeout=seconds)
        holder.write_text(f"Process {os.getpid()} on {socket.gethostname()}, started at {now()},", encoding="utf-8")
    except Timeout:
        raise LedgerError(
            f"{_read_holder(holder)} is using this document.",
            hint="Try again when it is done, or stop it; its finished requests are kept.",
            path=folder,
        ) from None
    except OSError as error:
        lock.release()
        raise write_error(
            folder, error.strerror or str(error), "Check DLM_HOME, the disk and the permissions."
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_owner(document: Document, owner: str, file: Path) -> None:
    """Check that `file` in the store, written for the document at the path `owner`, belongs to this document.

    Raises DlmError (LedgerError) if the owner is another file that still exists with the same dlm_id. If it is gone,
    the document was moved, which is only a warning.
    """
    source = source_path(document)
    if owner == source or (os.path.isfile(owner) and os.path.samefile(owner, source)):
        return
    # Search the bytes, because a document that is being edited may not parse right now.
    if os.path.isfile(owner) and document.frontmatter.dlm_id.encode() in read_bytes(Path(owner)):
        raise LedgerError(
            f"{file} belongs to {owner}, and {source} has the same dlm_id.",
            hint="A copy needs its own dlm_id: change one character of it, or delete the file you don't need.",
            path=document.path,
        )
    _note_move(file, owner, source)


@cache  # warn once, although a run reads its files several times
def _note_move(file: Path, owner: str, source: str) -> None:
    logger.warning("%s was written for %s, which is gone; using it for %s.", file, owner, source)


def source_path(document: Document) -> str:
    """The absolute path of the document's file, with symbolic links resolved.

    Raises DlmError: UsageError for a document in memory, StoreError for a path that isn't UTF-8.
    """
    if document.path is None:
        raise UsageError("The document was not read from a file.", hint="Read it with `dlm_trl.notes.read(path)`.")
    path = str(document.path.resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StoreError(f"The path {path!a} is not UTF-8.", hint="Rename the file or its folder.") from None
    return path


def make_folder(folder: Path) -> None:
    """Create a folder of the store. Raises DlmError (DlmWriteError)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(
            folder, error.strerror or str(error), "Check DLM_HOME, the disk and the permissions."
        ) from None


def now() -> str:
    """The current time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in this file, without damaged lines."""
    skipped = 0
    try:
        for line in whole_lines(path):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield record
            else:
                skipped += 1
    except OSError as error:
        why = error.strerror or str(error)
        raise LedgerError(f"The ledger cannot be read: {why}.", hint="Check the permissions.", path=path) from None
    if skipped:
        logger.warning("%s: skipped %d damaged lines.", path, skipped)


def _reply(line: dict[str, Any]) -> Reply | None:
    match line:
        case {
            "key": str(key),
            "text": str(text),
            "seconds": int() | float() as seconds,
            "prompt_tokens": int(prompt_tokens),
            "completion_tokens": int(completion_tokens),
        }:
            is_truncated = line.get("is_truncated") is True  # ledgers of earlier versions don't have it
            return Reply(key, text, Usage(prompt_tokens, completion_tokens), seconds, is_truncated=is_truncated)
    return None


def _read_holder(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8", errors="replace") or "Another process"
    except OSError:
        return "Another process"
