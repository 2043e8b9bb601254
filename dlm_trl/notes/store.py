"""The files kept for a document outside of it, in `$DLM_HOME` (default `~/.dlm`). Paths only.

    store/<dlm_id>/adapter/[<name>/]versions/v0001     trained adapters; current.txt names the current one
    store/<dlm_id>/synth/pending.json, …               staged and rejected pairs, prose views, ledger
    models/                                            base models converted on this machine

Only `publish_adapter` and `set_current_adapter` write.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dlm_trl.notes.document import Document
from dlm_trl.notes.errors import AdapterError, StoreError
from dlm_trl.notes.files import locked, replace_file

_OTHER_HOME = "Set DLM_HOME to another folder."
_VERSION = re.compile(r"v(\d{4,})")


def home() -> Path:
    """`$DLM_HOME`, or `~/.dlm` if it isn't set."""
    return Path(os.environ.get("DLM_HOME") or "~/.dlm").expanduser()


def models_dir() -> Path:
    """The folder for converted base models."""
    return home() / "models"


def document_store(dlm_id: str) -> Path:
    """The folder of everything kept for this document."""
    return home() / "store" / dlm_id


def synth_dir(dlm_id: str) -> Path:
    """The folder of the staged pairs and the ledger."""
    return document_store(dlm_id) / "synth"


def adapter_dir(dlm_id: str, name: str | None = None) -> Path:
    """The folder with `versions` and `current.txt` of the document's adapter, or of the one with this name."""
    folder = document_store(dlm_id) / "adapter"
    return folder / name if name else folder


def next_version(dlm_id: str, name: str | None = None) -> Path:
    """The path of the next version, `versions/vNNNN`, starting at v0001."""
    versions = adapter_dir(dlm_id, name) / "versions"
    taken = [int(m[1]) for p in versions.glob("v*") if (m := _VERSION.fullmatch(p.name))]
    return versions / f"v{max(taken, default=0) + 1:04d}"


def current_adapter(dlm_id: str, name: str | None = None) -> Path | None:
    """The folder of the current adapter, or None if none was trained yet.

    Raises DlmError (StoreError) if `current.txt` names a folder that doesn't exist or is outside the document's store.
    """
    pointer = adapter_dir(dlm_id, name) / "current.txt"
    if not pointer.exists():
        return None
    root = document_store(dlm_id).resolve()
    written = pointer.read_bytes().decode(errors="replace").strip().replace("\0", "")
    adapter = (root / written).resolve()
    if not _is_folder_in(root, adapter):
        raise StoreError(
            f"It names {adapter}, which isn't a folder in {root}.",
            hint="Train again, or delete this file.",
            path=pointer,
        )
    return adapter


def trained_adapter(document: Document, name: str | None, naming: str, otherwise: str) -> Path:
    """The folder of the document's current adapter, or of the one with this name.

    naming: hint on how to choose a name. otherwise: hint on what to do instead of training. Raises DlmError:
    AdapterError if it wasn't trained yet, the document needs a name, or doesn't declare this one; StoreError.
    """
    dlm_id, declared = document.frontmatter.dlm_id, list(document.frontmatter.training.adapters or ())
    if name is not None and name not in declared:
        message = f"The document declares no adapter {name!r}; declared: {', '.join(declared) or 'none'}."
        raise AdapterError(message, hint=naming, path=document.path)
    folder = current_adapter(dlm_id, name)
    if folder is not None:
        return folder
    if name is None and (trained := [other for other in declared if current_adapter(dlm_id, other)]):
        message = f"The adapters of this document have names: {', '.join(trained)}."
        raise AdapterError(message, hint=naming, path=document.path)
    option = f" --adapter_name {name or declared[0]}" if declared else ""
    raise AdapterError(
        f"No adapter{f' {name!r}' if name else ''} of this document has been trained yet.",
        hint=f"Train one: dlm-trl train {document.path or 'FILE'}{option}; or {otherwise}",
        path=document.path,
    )


def publish_adapter(dlm_id: str, files: Iterable[Path], name: str | None = None) -> Path:
    """Copy an adapter's files to a new version and make it the current one; returns the version's folder.

    The version appears with all its files or not at all, also if two runs publish at once. Raises DlmError (StoreError)
    if it can't be written.
    """
    versions = adapter_dir(dlm_id, name) / "versions"
    try:
        versions.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=versions, prefix=".new-") as scratch:
            new = Path(scratch) / "adapter"
            new.mkdir()
            for file in files:
                shutil.copy2(file, new)
            while True:
                folder = next_version(dlm_id, name)
                try:
                    os.rename(new, folder)
                    break
                except OSError:
                    if not folder.exists():  # else another run took the number
                        raise
        set_current_adapter(dlm_id, folder, name)
    except OSError as error:
        raise StoreError(
            f"The adapter can't be copied to the document's store: {error.strerror or error}.",
            hint=_OTHER_HOME,
            path=versions,
        ) from error
    return folder


def check_writable(dlm_id: str, bytes_needed: int) -> None:
    """Raises DlmError (StoreError) if the document's store can't take an adapter of this size."""
    folder = document_store(dlm_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StoreError(
            f"The document's store can't be written: {error.strerror}.", hint=_OTHER_HOME, path=folder
        ) from error
    if free < bytes_needed:
        message = f"{free / 2**20:,.0f} MiB are free, and the adapter needs {bytes_needed / 2**20:,.0f}."
        raise StoreError(message, hint=_OTHER_HOME, path=folder)


def set_current_adapter(dlm_id: str, adapter: Path, name: str | None = None) -> None:
    """Make this folder, which must be in the document's store, the current adapter.

    `current.txt` contains a relative path, so `$DLM_HOME` can be moved. Raises DlmError (StoreError).
    """
    root = document_store(dlm_id).resolve()
    folder = adapter.resolve()
    if not _is_folder_in(root, folder):
        raise StoreError(
            f"{adapter} isn't a folder in {root}.",
            hint="Save the adapter under next_version() first.",
            path=adapter,
        )
    pointer = adapter_dir(dlm_id, name) / "current.txt"
    pointer.parent.mkdir(parents=True, exist_ok=True)
    with locked(pointer):
        replace_file(pointer, f"{folder.relative_to(root).as_posix()}\n".encode())


def _is_folder_in(root: Path, folder: Path) -> bool:
    """Whether this is a folder below root; both paths must be resolved."""
    return folder != root and folder.is_relative_to(root) and folder.is_dir()
