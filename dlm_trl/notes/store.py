"""Where a document's things lie outside the document: `$DLM_HOME` (default `~/.dlm`) `/store/<dlm_id>/`. Paths only.

    store/<dlm_id>/adapter/[<name>/]versions/v0001     trained adapters; current.txt names the live one
    store/<dlm_id>/synth/pending.json, …               staged pairs and the ledger

and `$DLM_HOME/models/` for base models that were converted on this machine.

Nothing here makes a folder but `set_current_adapter`, which writes `current.txt`.
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
    """`$DLM_HOME`, or `~/.dlm` where it is not set."""
    return Path(os.environ.get("DLM_HOME") or "~/.dlm").expanduser()


def models_dir() -> Path:
    """The folder of converted base models."""
    return home() / "models"


def document_store(dlm_id: str) -> Path:
    """The folder of everything that belongs to this document."""
    return home() / "store" / dlm_id


def synth_dir(dlm_id: str) -> Path:
    """The folder of staged pairs and of the ledger."""
    return document_store(dlm_id) / "synth"


def adapter_dir(dlm_id: str, name: str | None = None) -> Path:
    """The folder that holds `versions` and `current.txt`: of the document's adapter, or of its adapter of this name."""
    folder = document_store(dlm_id) / "adapter"
    return folder / name if name else folder


def next_version(dlm_id: str, name: str | None = None) -> Path:
    """The first unused `versions/vNNNN`, counted from v0001."""
    versions = adapter_dir(dlm_id, name) / "versions"
    taken = [int(m[1]) for p in versions.glob("v*") if (m := _VERSION.fullmatch(p.name))]
    return versions / f"v{max(taken, default=0) + 1:04d}"


def current_adapter(dlm_id: str, name: str | None = None) -> Path | None:
    """The folder of the live adapter, None where none was trained yet.

    Raises DlmError (StoreError) where `current.txt` names a folder that is gone or lies outside the document's store.
    """
    pointer = adapter_dir(dlm_id, name) / "current.txt"
    if not pointer.exists():
        return None
    root = document_store(dlm_id).resolve()
    adapter = (root / pointer.read_text(encoding="utf-8").strip()).resolve()
    if not _is_folder_in(root, adapter):
        raise StoreError(
            f"It names {adapter}, which is no folder of an adapter in {root}.",
            hint="Train again, or remove this file.",
            path=pointer,
        )
    return adapter


def trained_adapter(document: Document, name: str | None, naming: str, otherwise: str) -> Path:
    """The folder of the document's live adapter, of this name where it has named ones.

    naming says how the caller is told a name, otherwise what else can be done. Raises DlmError: AdapterError where
    there is none yet, or where a name is needed or is none of the document's; StoreError.
    """
    dlm_id, declared = document.frontmatter.dlm_id, list(document.frontmatter.training.adapters or ())
    if name is not None and name not in declared:
        message = f"The document declares no adapter {name!r}; declared: {', '.join(declared) or 'none'}."
        raise AdapterError(message, hint=naming, path=document.path)
    folder = current_adapter(dlm_id, name)
    if folder is not None:
        return folder
    if name is None and (trained := [each for each in declared if current_adapter(dlm_id, each)]):
        message = f"The adapters of this document have names: {', '.join(trained)}."
        raise AdapterError(message, hint=naming, path=document.path)
    option = f" --adapter_name {name or declared[0]}" if declared else ""
    raise AdapterError(
        f"No adapter{f' {name!r}' if name else ''} of this document was trained yet.",
        hint=f"Train one: dlm-trl train {document.path or 'FILE'}{option}; or {otherwise}",
        path=document.path,
    )


def set_current_adapter(dlm_id: str, adapter: Path, name: str | None = None) -> None:
    """Makes this folder, which must lie in the document's store, the live adapter.

    `current.txt` holds its path relative to the store, so that a moved `$DLM_HOME` stays whole. Raises DlmError
    (StoreError).
    """
    root = document_store(dlm_id).resolve()
    folder = adapter.resolve()
    if not _is_folder_in(root, folder):
        raise StoreError(
            f"{adapter} is no folder in {root}.",
            hint="Save the adapter under next_version() first.",
            path=adapter,
        )
    pointer = adapter_dir(dlm_id, name) / "current.txt"
    pointer.parent.mkdir(parents=True, exist_ok=True)
    with locked(pointer):
        replace_file(pointer, f"{folder.relative_to(root).as_posix()}\n".encode())


def _is_folder_in(root: Path, folder: Path) -> bool:
    """Whether this is a folder below root; both are resolved paths."""
    return folder != root and folder.is_relative_to(root) and folder.is_dir()
