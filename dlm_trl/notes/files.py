"""Files that are replaced whole or not at all, by one writer at a time.

`with locked(path): … replace_file(path, data)` leaves the old file or the new one behind, whatever kills the process
and whenever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

from filelock import FileLock, Timeout

from dlm_trl.notes.errors import DlmWriteError

LOCK_SECONDS = 10.0


@contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock of this file (`.NAME.lock` beside it, links followed). Raises DlmError (DlmWriteError) after
    `seconds`.
    """
    target = path.resolve()
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=seconds)
        if target.exists():
            _give(Path(lock.lock_file), target.stat())  # its owner has to open it, too
    except Timeout:
        raise write_error(path, "another program is writing it", "Try again when it is done.") from None
    except OSError as error:
        raise write_error(
            path, f"its folder takes no lock file ({error.strerror})", "Make the folder writable."
        ) from None
    try:
        yield
    finally:
        lock.release()


def replace_file(path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """Puts data in the place of this file, links followed; call it under `locked`.

    The file keeps its mode and, as far as the process may, its owner and group. One that does not exist yet gets those
    of `like`, else what the process gives. Raises DlmError (DlmWriteError) where the folder, the disk or the file's own
    mode forbids it; the old file is then untouched.
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        if target.exists():
            # Replacing needs no permission on the file itself, so a read-only one has to be asked for.
            if not os.access(target, os.W_OK):
                raise PermissionError(13, "it is read-only")
            like = target.stat()
        temporary.unlink(missing_ok=True)  # left behind by a process that was killed
        try:
            with open(temporary, "xb") as file:
                if like is not None:
                    _give(temporary, like)
                    os.chmod(temporary, S_IMODE(like.st_mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # elsewhere folders cannot be opened
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise write_error(
            path, error.strerror or str(error), "Check the disk and the permissions; nothing was changed."
        ) from None


def _give(path: Path, like: os.stat_result) -> None:
    """Gives this file to the owner and the group of another, as far as the process may."""
    if os.name == "posix":
        # In a container root edits what belongs to a user outside; others can give a file to a group of theirs only.
        with suppress(OSError):
            os.chown(path, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)


def write_error(path: Path, why: str, hint: str) -> DlmWriteError:
    """A DlmWriteError for this file."""
    return DlmWriteError(f"The file cannot be written: {why}.", hint=hint, path=path)
