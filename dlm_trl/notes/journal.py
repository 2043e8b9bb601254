"""Files of one JSON record per line that only grow and survive a kill: `append(path, records)`, `whole_lines(path)`.

A process that is killed while it writes leaves at most one torn line, the last one. Readers skip it and the next
writer removes it. Hold `files.locked(path)` while you append, or a line that another process is still writing looks
like a torn one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dlm_trl.notes.files import write_error


def append(path: Path, records: Iterable[Mapping[str, Any]], *, sync: bool = True, ensure_ascii: bool = True) -> int:
    """Append these records, all or none, and return the file's length in bytes.

    When this returns, the lines survive a kill of this process; with sync they also survive a power loss. ensure_ascii
    is that of `json.dumps`. Raises DlmError (DlmWriteError) if the file can't be written, and leaves it as it was.
    """
    lines = "".join(f"{json.dumps(record, ensure_ascii=ensure_ascii)}\n" for record in records).encode()
    try:
        with open(path, "a+b", buffering=0) as file:
            end = _remove_torn_line(file)
            try:
                while lines:  # a full disk first writes a part and then raises
                    lines = lines[file.write(lines) :]
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
            return file.seek(0, os.SEEK_END)
    except OSError as error:
        hint = "Free some space, then rerun the same command to resume."
        raise write_error(path, error.strerror or str(error), hint) from None


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of this file with their line ends, without a torn last one; none if the file doesn't exist.

    Raises OSError if it can't be read.
    """
    try:
        with open(path, "rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError:
        return


def _remove_torn_line(file: BinaryIO) -> int:
    """Truncate the file after its last whole line, and return its length."""
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            end = file.truncate(file.read().rfind(b"\n") + 1)
    return end
