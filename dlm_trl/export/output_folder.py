"""A folder that appears whole or not at all.

with new_folder(out_dir, inputs=[adapter_dir], needed=14_000_000_000) as temporary:
    ...                                     # write into temporary; out_dir stays what it was
                                            # here it has taken out_dir's place
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dlm_trl.export.adapter import CONFIG  # in a folder that took a training, which no second call brings back
from dlm_trl.models.lineage import FILE as LINEAGE  # in every folder that this package made
from dlm_trl.notes.errors import DlmError, OutputError

SPARE = 2**26  # bytes that stay free beside what is written


@contextmanager
def new_folder(out_dir: Path, inputs: Sequence[Path] = (), needed: int = 0) -> Iterator[Path]:
    """An empty folder beside out_dir that takes its place when the block ends, and is removed when the block raises.

    A process that is killed leaves the old out_dir whole, and a folder `.NAME.partial` beside it, which the next call
    removes. inputs are folders that out_dir must not be, hold or lie in; needed the bytes that the block will write.
    Raises DlmError (OutputError), before the block, for those, for an out_dir that is a file, a trained adapter or a
    non-empty folder that this package did not make, for a read-only place, too little free disk, and another process
    at the same work.
    """
    check_out_dir(out_dir, inputs, needed)
    target = out_dir.expanduser().resolve()
    temporary, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise _error(out_dir, "another program is writing it", "Try again when it is done.") from None
    except OSError as error:
        raise _unwritable(out_dir, error) from error
    try:
        _clear(target, temporary, old)
        temporary.mkdir()
        try:
            yield temporary
            _sync(temporary)
            _replace(target, temporary, old)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise _unwritable(out_dir, error) from error
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before the release: who waits for it notices and asks anew
        lock.release()


def check_out_dir(out_dir: Path, inputs: Sequence[Path] = (), needed: int = 0) -> None:
    """Raises the DlmError (OutputError) that `new_folder` would, before any work is done; writes nothing."""
    try:
        _check(out_dir, inputs, needed)
    except (OSError, RuntimeError) as error:  # a name too long; a link to itself
        raise _unwritable(out_dir, error) from error


def _check(out_dir: Path, inputs: Sequence[Path], needed: int) -> None:
    target = out_dir.expanduser().resolve()
    for folder in (path.expanduser().resolve() for path in inputs):
        if target == folder or target in folder.parents or folder in target.parents:
            raise _error(out_dir, f"it is, holds or lies in {folder}, which is read", "Choose another folder.")
    if target.exists() and not target.is_dir():
        raise _error(out_dir, "it is a file", "Choose another folder.")
    if (target / CONFIG).exists():
        raise _error(out_dir, "it holds an adapter, which would be lost", "Choose another folder.")
    if target.is_dir() and any(target.iterdir()) and not (target / LINEAGE).is_file():
        raise _error(
            out_dir, f"it is not empty and holds no {LINEAGE}, so it is no earlier result", "Choose another folder."
        )
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir():
        raise _error(out_dir, f"{existing} is a file", "Choose another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _error(out_dir, f"{existing} is read-only", "Choose another folder.")
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE:
        raise _error(
            out_dir,
            f"it needs {(needed + SPARE) / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
            "Make room, or choose another disk.",
        )


def _replace(target: Path, temporary: Path, old: Path) -> None:
    """Two renames, for no system replaces a folder that is not empty; `_clear` repairs a kill between them."""
    if target.exists():
        target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _sync_entry(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clear(target: Path, temporary: Path, old: Path) -> None:
    """Put right what a killed process left."""
    if old.exists() and not target.exists():
        old.rename(target)
    for left in (temporary, old):
        if left.exists():
            shutil.rmtree(left)


def _sync(folder: Path) -> None:
    """All files of the folder on the disk, so that the renames cannot overtake them.

    And with the rights that any new file gets here: safetensors gives its files to their owner alone, and a server is
    often another user.
    """
    mask = os.umask(0)
    os.umask(mask)
    for file in filter(Path.is_file, folder.rglob("*")):
        file.chmod(0o666 & ~mask)
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())


def _sync_entry(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(out_dir: Path, error: OSError | RuntimeError) -> DlmError:
    return _error(
        out_dir,
        getattr(error, "strerror", None) or str(error),
        "Check the disk and the permissions; nothing was changed.",
    )


def _error(out_dir: Path, why: str, hint: str) -> OutputError:
    return OutputError(f"The result cannot be put here: {why}.", hint=hint, path=out_dir)
