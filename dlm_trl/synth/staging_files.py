"""The files of staging: what they contain, reading and writing them. `synth.staging` says what a pair in them is.

`pending.json` is the format's own file, which the reference implementation reads and writes, too.
`pending_scores.json` has what that has no field for, by a pair's section id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dlm_trl.notes import Document
from dlm_trl.notes.errors import StagingError
from dlm_trl.notes.files import locked, replace_file, write_error
from dlm_trl.notes.parser import read_bytes
from dlm_trl.notes.schema import AdapterName
from dlm_trl.notes.store import synth_dir
from dlm_trl.synth.ledger import check_owner, make_folder, now, source_path
from dlm_trl.synth.pairs import QAPair, Scores

Text = Annotated[str, Field(min_length=1)]


class Entry(BaseModel):
    """One section in pending.json: the fields of a synthesised pair, and those that must be empty."""

    model_config = ConfigDict(extra="allow")

    type: Literal["instruction"] = "instruction"
    content: Text
    start_line: int = 0
    adapter: AdapterName | None = None
    tags: dict[str, str] = {}
    auto_harvest: Literal[False] = False
    harvest_source: None = None
    auto_mined: Literal[False] = False
    judge_name: None = None
    judge_score_chosen: None = None
    judge_score_rejected: None = None
    mined_at: None = None
    mined_run_id: None = None
    auto_synth: Literal[True] = True
    synth_teacher: Text
    synth_strategy: Text
    synth_at: Text
    source_section_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    media_path: None = None
    media_alt: None = None
    media_blob_sha: None = None
    media_transcript: None = None


class Plan(BaseModel):
    """The whole of pending.json."""

    model_config = ConfigDict(extra="allow")

    schema_version: Literal[1] = 1
    source_path: Text
    created_at: Text
    sections: list[Entry] = []


class Origin(BaseModel):
    """One pair in pending_scores.json."""

    scores: Scores | None
    request_key: str | None = None  # another program staged it, and it was edited here
    index: int | None = None
    prose_sha: str | None = None
    limits: dict[str, float] | None = None  # earlier versions didn't keep them
    facts: tuple[str, ...] = ()
    kind: str | None = None
    edited_from: QAPair | None = None


Origins = dict[str, Origin]
_PLAN, _ORIGINS = TypeAdapter(Plan), TypeAdapter(Origins)


def pending_path(document: Document) -> Path:
    """The file with the document's staged pairs; it need not exist."""
    return synth_dir(document.frontmatter.dlm_id) / "pending.json"


def _origins_path(document: Document) -> Path:
    return pending_path(document).with_name("pending_scores.json")


@contextmanager
def locked_staging(document: Document) -> Iterator[None]:
    """Hold the lock of the staging files."""
    path = pending_path(document)
    make_folder(path.parent)
    with locked(path):
        yield


def load(document: Document) -> tuple[Plan, Origins]:
    """Both files; the plan's source_path becomes this document's.

    Raises DlmError: LedgerError if the pairs were staged for another file with the same dlm_id, StagingError if a file
    is damaged.
    """
    source, path = source_path(document), pending_path(document)
    plan = _read(path, _PLAN) or Plan(source_path=source, created_at=now())
    check_owner(document, plan.source_path, path)
    plan.source_path = source
    return plan, load_origins(document)


def load_origins(document: Document) -> Origins:
    """pending_scores.json. Raises DlmError (StagingError) if it is damaged."""
    return _read(_origins_path(document), _ORIGINS) or {}


def save_origins(document: Document, origins: Origins) -> None:
    """Write pending_scores.json. Raises DlmError (DlmWriteError)."""
    _write(_origins_path(document), _ORIGINS.dump_python(origins))


def _read(path: Path, shape: TypeAdapter[Any]) -> Any:
    """The validated content of this file, or None if it doesn't exist."""
    if not os.path.exists(path):
        return None
    try:
        return shape.validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise damaged(path, f"{place}: {first['msg']}." if place else f"{first['msg']}.") from None


def save_plan(document: Document, plan: Plan) -> None:
    """Write pending.json, or remove it if nothing is staged. Raises DlmError (DlmWriteError)."""
    path = pending_path(document)
    if plan.sections:
        _write(path, plan.model_dump())
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error.strerror or str(error), "Check the permissions.") from None


def _write(path: Path, content: Any) -> None:
    # Byte for byte as the reference implementation writes it.
    replace_file(path, f"{json.dumps(content, indent=2, sort_keys=True)}\n".encode())


def damaged(path: Path, problem: str) -> StagingError:
    """The error for a staging file with this problem."""
    hint = "Repair the file, or delete it and rerun the synth command: it stages the same pairs from the ledger, free."
    return StagingError(f"The file is damaged. {problem}", hint=hint, path=path)
