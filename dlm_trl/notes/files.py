"""Atomic replacement of files, by one writer at a time.

`with locked(path): … replace_file(path, data)` leaves either the old or the new file, even if the process is killed.
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
    """Hold the lock of this file (`.NAME.lock` next to it, symbolic links resolved).

    Raises DlmError (DlmWriteError) if another process still holds it after `seconds`.
    """
    target = path.resolve()
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=seconds)
        if target.exists():
            _set_owner(Path(lock.lock_file), target.stat())  # the file's owner must be able to open it, too
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
    """Atomically replace this file, symbolic links resolved; call it under `locked`.

    Keeps the file's mode and, if permitted, its owner and group. A new file gets those of `like`, or the process's
    defaults. Raises DlmError (DlmWriteError), leaving the old file unchanged, if the folder, the disk or the file's
    mode doesn't allow it.
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        if target.exists():
            # Renaming over a read-only file would succeed, so check for it.
            if not os.access(target, os.W_OK):
                raise PermissionError(13, "it is read-only")
            like = target.stat()
        temporary.unlink(missing_ok=True)  # left by a process that was killed
        try:
            with open(temporary, "xb") as file:
                if like is not None:
                    _set_owner(temporary, like)
                    os.chmod(temporary, S_IMODE(like.st_mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # Windows can't open folders
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise write_error(
            path, error.strerror or str(error), "Check the disk and the permissions; nothing was changed."
        ) from None


def _set_owner(path: Path, like: os.stat_result) -> None:
    """Give this file the owner and group of another, if permitted."""
    if os.name == "posix":
        # Root in a container often edits a host user's files; other users can only change to a group they belong to.
        with suppress(OSError):
            os.chown(path, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)


def write_error(path: Path, why: str, hint: str) -> DlmWriteError:
    """A DlmWriteError for this file."""
    return DlmWriteError(f"The file cannot be written: {why}.", hint=hint, path=path)
