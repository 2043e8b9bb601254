"""An output folder that appears whole or not at all.

with new_folder(out_dir, inputs=[adapter_dir], needed=14_000_000_000) as temporary:
    ...                                     # write into temporary; out_dir is unchanged
                                            # here temporary has replaced out_dir
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dlm_trl.export.adapter import CONFIG  # marks a trained adapter, which can't be made again by a second call
from dlm_trl.models.lineage import FILE as LINEAGE  # marks a folder that this package made
from dlm_trl.notes.errors import DlmError, OutputError

SPARE = 2**26  # bytes of disk to leave free


@contextmanager
def new_folder(out_dir: Path, inputs: Sequence[Path] = (), needed: int = 0) -> Iterator[Path]:
    """An empty folder next to out_dir that replaces it at the end of the block, or is removed if the block raises.

    If the process is killed, the old out_dir stays whole, and the next call removes the `.NAME.partial` left beside it.
    inputs: folders that out_dir must not equal, contain or be inside of. needed: bytes that the block will write.

    Raises DlmError (OutputError) before the block: for those folders, for an out_dir that is a file, a trained adapter
    or a non-empty folder that this package didn't make, for a read-only place or a full disk, and if another process
    is writing to out_dir.
    """
    check_out_dir(out_dir, inputs, needed)
    target = out_dir.expanduser().resolve()
    temporary, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire(timeout=0)
    except Timeout:
        raise _error(out_dir, "another program is writing it", "Try again when it has finished.") from None
    except OSError as error:
        raise _unwritable(out_dir, error) from error
    try:
        _clean_up(target, temporary, old)
        temporary.mkdir()
        try:
            yield temporary
            _sync_files(temporary)
            _replace(target, temporary, old)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise _unwritable(out_dir, error) from error
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before the release: a waiting process then makes a new file
        lock.release()


def check_out_dir(out_dir: Path, inputs: Sequence[Path] = (), needed: int = 0) -> None:
    """Raises the DlmError (OutputError) that `new_folder` would, before any work; writes nothing."""
    try:
        _check(out_dir, inputs, needed)
    except (OSError, RuntimeError) as error:  # a name that is too long, a link to itself
        raise _unwritable(out_dir, error) from error


def _check(out_dir: Path, inputs: Sequence[Path], needed: int) -> None:
    target = out_dir.expanduser().resolve()
    another = "Choose another folder."
    for folder in (path.expanduser().resolve() for path in inputs):
        if target == folder or target in folder.parents or folder in target.parents:
            raise _error(out_dir, f"it overlaps with the input folder {folder}", another)
    if target.exists() and not target.is_dir():
        raise _error(out_dir, "it is a file", another)
    if (target / CONFIG).exists():
        raise _error(out_dir, "it holds an adapter, which would be lost", another)
    if target.is_dir() and any(target.iterdir()) and not (target / LINEAGE).is_file():
        raise _error(out_dir, f"it isn't empty and has no {LINEAGE}, so it isn't an earlier result", another)
    existing = next(parent for parent in target.parents if parent.exists())
    if not existing.is_dir():
        raise _error(out_dir, f"{existing} is a file", another)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _error(out_dir, f"{existing} is read-only", another)
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE:
        reason = f"it needs {(needed + SPARE) / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise _error(out_dir, reason, "Free some space, or choose another disk.")


def _replace(target: Path, temporary: Path, old: Path) -> None:
    """Replace target in two renames, since a non-empty folder can't be replaced in one.

    If the process is killed in between, `_clean_up` repairs it.
    """
    if target.exists():
        target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clean_up(target: Path, temporary: Path, old: Path) -> None:
    """Repair what a killed process left."""
    if old.exists() and not target.exists():
        old.rename(target)
    for leftover in (temporary, old):
        if leftover.exists():
            shutil.rmtree(leftover)


def _sync_files(folder: Path) -> None:
    """Flush all files to disk before the renames, and give them the default permissions for new files.

    safetensors makes files readable by their owner only, and a server often runs as another user.
    """
    mask = os.umask(0)
    os.umask(mask)
    for file in filter(Path.is_file, folder.rglob("*")):
        file.chmod(0o666 & ~mask)
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # other systems can't open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(out_dir: Path, error: OSError | RuntimeError) -> DlmError:
    reason = getattr(error, "strerror", None) or str(error)
    return _error(out_dir, reason, "Check the disk and the permissions; nothing was changed.")


def _error(out_dir: Path, reason: str, hint: str) -> OutputError:
    return OutputError(f"Can't write the result here: {reason}.", hint=hint, path=out_dir)
