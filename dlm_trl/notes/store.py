"""The files kept for a document outside of it, in `$DLM_HOME` (default `~/.dlm`). Paths only.

    store/<dlm_id>/adapter/[<name>/]versions/v0001     trained adapters; current.txt names the current one
    store/<dlm_id>/synth/pending.json, …               staged pairs and the ledger
    models/                                            base models converted on this machine

Only `set_current_adapter` creates folders or writes, namely `current.txt`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dlm_trl.notes.document import Document
from dlm_trl.notes.errors import AdapterError, StoreError
from dlm_trl.notes.files import locked, replace_file

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
    adapter = (root / pointer.read_text(encoding="utf-8").strip()).resolve()
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
