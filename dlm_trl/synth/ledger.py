"""The ledger: every finished request of a document, so that nothing is asked for twice. One line of JSON each.

    with run_lock(dlm_id):                              # one run at a time; the others wait
        ledger = Ledger(document)
        reply = ledger.get(request.key)                     # None: it has to be asked
        ledger.record(request, reply, section_id=…)         # a process killed from here on has it
        ledger.sync()                                       # and a machine that loses power, too

`$DLM_HOME/store/<dlm_id>/synth/ledger.jsonl` only grows. Its first line says for which file it was made; of two lines
about one request the later counts. What a killed process left half written is cut off by the next one that writes.
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
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from dlm_trl.notes import Document
from dlm_trl.notes.errors import LedgerError, StoreError, UsageError
from dlm_trl.notes.files import LOCK_SECONDS, locked, write_error
from dlm_trl.notes.parser import read_bytes
from dlm_trl.notes.store import synth_dir
from dlm_trl.teachers.protocol import Reply, Request, TeacherInfo, Usage

logger = logging.getLogger(__name__)

SYNC_SECONDS = 1.0  # what a loss of power can cost, at most: a disk may take longer to be sure of a line than a reply


def request_key(
    teacher: TeacherInfo,
    prompt_version: int | str,
    messages: Sequence[Mapping[str, str]],
    max_new_tokens: int,
    temperature: float,
    top_p: float | None,
    seed: int | None,
    sample: int = 0,
) -> str:
    """32 hex digits of a SHA-256 over all that decides a reply; sample tells requests apart that are else the same.

    The addresses of vLLM servers do not decide it, their model does, which is the revision: behind another port, or
    with a server more, nothing is asked again.
    """
    kind, _, _ = teacher.reference.partition(":")
    who = kind if kind == "vllm-server" else teacher.reference
    said = [dict(message) for message in messages]
    parameters = [max_new_tokens, float(temperature), top_p, seed, sample]
    decides = [who, teacher.revision, prompt_version, said, parameters]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


class Ledger:
    """The finished requests of a document. Processes may share it: each one's lines are appended whole."""

    def __init__(self, document: Document) -> None:
        """Reads what is there and writes nothing; lines that are damaged are skipped with one warning.

        Raises DlmError: LedgerError where the ledger belongs to another file of the same dlm_id, LedgerError where it
        cannot be read or is of another version.
        """
        dlm_id = document.frontmatter.dlm_id
        self.path = synth_dir(dlm_id) / "ledger.jsonl"
        self._replies: dict[str, Reply] = {}
        owner: str | None = None
        for line in _objects(self.path):
            match line:
                case {"ledger": 1, "source_path": str(path)}:
                    owner = path
                case {"ledger": version}:
                    raise LedgerError(
                        f"The ledger is of version {version}, and this program writes version 1.",
                        hint="Use the program that wrote it, or move the file away.",
                        path=self.path,
                    )
                case _ if reply := _reply(line):
                    self._replies[reply.key] = reply
        source = source_path(document)
        if owner is not None:
            check_owner(document, owner, self.path)
        # A file that was moved becomes a second header: the ledger is appended to, never rewritten.
        header = {"ledger": 1, "dlm_id": dlm_id, "source_path": source}
        self._unwritten = [] if owner == source else [header]
        self._synced = time.monotonic()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to the request of this key, None where there is none yet."""
        return self._replies.get(key)

    def record(self, request: Request, reply: Reply, **facts: Any) -> None:
        """Writes a finished request down, with facts about it that JSON can hold; a reply with an error is none.

        The operating system has the line when this returns, the disk within SYNC_SECONDS of the next one or of `sync`.
        Raises DlmError (DlmWriteError) where the disk takes no more; the ledger is then as it was.
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
            "messages": [dict(message) for message in request.messages],
            "max_new_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "facts": facts,
        }
        # ASCII, for a reply may hold what UTF-8 cannot (half a surrogate pair) or what others take for a line's end.
        self._append([*self._unwritten, line])
        self._unwritten = []
        self._replies[request.key] = reply

    def sync(self) -> None:
        """Returns when all that was recorded is on the disk. Raises DlmError (DlmWriteError)."""
        if self.path.exists():
            self._append(self._unwritten, sync=True)  # after a move the ledger is this file's, whatever was asked
            self._unwritten = []

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every finished request as `record` wrote it, oldest first, read from the disk."""
        return (line for line in _objects(self.path) if _reply(line))

    def _append(self, items: Sequence[Mapping[str, Any]], sync: bool = False) -> None:
        lines = "".join(f"{json.dumps(item)}\n" for item in items).encode()
        make_folder(self.path.parent)
        with locked(self.path):
            try:
                with open(self.path, "a+b", buffering=0) as file:
                    end = _healed(file)
                    try:
                        while lines:  # a full disk takes a part first and refuses the rest
                            lines = lines[file.write(lines) :]
                        if sync or time.monotonic() - self._synced >= SYNC_SECONDS:
                            os.fsync(file.fileno())
                            self._synced = time.monotonic()
                    except OSError:
                        file.truncate(end)
                        raise
            except OSError as error:
                why, hint = error.strerror or str(error), "Make room and repeat the command: it goes on from here."
                raise write_error(self.path, why, hint) from None


@contextmanager
def run_lock(dlm_id: str, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock of synthesis runs on this document. Says in a warning for whom it waits, `seconds` at most.

    Raises DlmError (LedgerError) then, naming the process that has it.
    """
    folder = synth_dir(dlm_id)
    make_folder(folder)
    lock, holder = FileLock(folder / ".run.lock"), folder / ".run.holder"
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s works on this document; waiting up to %g seconds.", _read_holder(holder), seconds)
            lock.acquire(timeout=seconds)
        holder.write_text(f"Process {os.getpid()} on {socket.gethostname()}, started at {now()},", encoding="utf-8")
    except Timeout:
        raise LedgerError(
            f"{_read_holder(holder)} works on this document.",
            hint="Try again when it is done, or end it; nothing that it was answered will be lost.",
            path=folder,
        ) from None
    except OSError as error:
        lock.release()
        raise write_error(folder, error.strerror or str(error), "Check DLM_HOME, the disk, the permissions.") from None
    try:
        yield
    finally:
        lock.release()


def check_owner(document: Document, owner: str, file: Path) -> None:
    """Refuses what is in `file` where it was made for another document than this one: owner is the path of that one.

    Raises DlmError (LedgerError) where the other still exists and has the same dlm_id. Where it has gone, the document
    was moved, and a warning says so.
    """
    source = source_path(document)
    if owner == source or (os.path.isfile(owner) and os.path.samefile(owner, source)):
        return
    # No parser: a document that is being edited, and broken just now, is still the owner.
    if os.path.isfile(owner) and document.frontmatter.dlm_id.encode() in read_bytes(Path(owner)):
        raise LedgerError(
            f"What is in {file} was made for {owner}, and {source} has the same dlm_id.",
            hint="A copy needs a dlm_id of its own. Change one character of it, or remove the file that is not needed.",
            path=document.path,
        )
    _note_move(file, owner, source)


@cache  # a run reads its files more than once
def _note_move(file: Path, owner: str, source: str) -> None:
    logger.warning("%s was made for %s, which is gone; going on with %s.", file, owner, source)


def source_path(document: Document) -> str:
    """The absolute path of the document's file, links followed.

    Raises DlmError: UsageError for a document in memory, StoreError for a path that is no text.
    """
    if document.path is None:
        raise UsageError("The document was not read from a file.", hint="Read it from one.")
    path = str(document.path.resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StoreError(f"The path {path!a} is not UTF-8.", hint="Rename the file or its folder.") from None
    return path


def make_folder(folder: Path) -> None:
    """Makes a folder of the store. Raises DlmError (DlmWriteError)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error.strerror or str(error), "Check DLM_HOME, the disk, the permissions.") from None


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in this file, one a line."""
    skipped = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # a writer was killed here
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError):
                    found = None
                if isinstance(found, dict):
                    yield found
                else:
                    skipped += 1
    except FileNotFoundError:
        return
    except OSError as error:
        why = error.strerror or str(error)
        raise LedgerError(f"The ledger cannot be read: {why}.", hint="Check the permissions.", path=path) from None
    if skipped:
        logger.warning("%s: %d lines are damaged and were skipped.", path, skipped)


def _reply(line: dict[str, Any]) -> Reply | None:
    match line:
        case {
            "key": str(key),
            "text": str(text),
            "seconds": int() | float() as seconds,
            "prompt_tokens": int(prompt_tokens),
            "completion_tokens": int(completion_tokens),
        }:
            return Reply(key, text, Usage(prompt_tokens, completion_tokens), seconds)
    return None


def _healed(file: BinaryIO) -> int:
    """The file's length, once what stands behind its last whole line is gone."""
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            end = file.truncate(file.read().rfind(b"\n") + 1)
    return end


def _read_holder(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "Another process"
    except OSError:
        return "Another process"
