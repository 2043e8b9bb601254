"""Rejected pairs, kept so that a person can look at them and accept one all the same: `keep`, `rejected`, `forget`.

    keep(document, [Rejected(item, "grounding", "grounding below 0.70: 0.31")])
    for each in rejected(document): print(each.item.pair.question, each.reason)

`$DLM_HOME/store/<dlm_id>/synth/rejected.jsonl` has one per line, each pair once, with the last reason.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from dlm_trl.notes import Document
from dlm_trl.notes.files import locked, replace_file
from dlm_trl.notes.records import read_records
from dlm_trl.notes.store import synth_dir
from dlm_trl.synth.ledger import make_folder
from dlm_trl.synth.staging import Staged, applied, staged

DROPPED = "review"  # the stage of a pair that a person dropped on the review page


@dataclass(frozen=True, slots=True)
class Rejected:
    """A pair as it would have been staged, the stage that rejected it, and why."""

    item: Staged
    stage: str
    reason: str


_REJECTED = TypeAdapter(Rejected)


def rejected(document: Document) -> list[Rejected]:
    """The rejected pairs, the oldest first, without those that are staged or in the document by now.

    Raises DlmError as `staged` and `applied` do, and StagingError if the file is damaged.
    """
    items = [*staged(document), *applied(document)]
    known = {section.bare_id for section in document.sections} | {item.section_id for item in items}
    known_pairs = {item.edited_from for item in items}
    return [
        each
        for each in _read(document).values()
        if each.item.section_id not in known and each.item.pair not in known_pairs
    ]


def keep(document: Document, new: Iterable[Rejected], accepted: Collection[str] = ()) -> None:
    """Keep these rejected pairs, and forget those with these ids.

    Raises DlmError: StagingError, DlmWriteError.
    """
    path = _path(document)
    make_folder(path.parent)
    with locked(path):
        before = _read(document)
        after = before | {each.item.section_id: each for each in new}
        after = {own_id: each for own_id, each in after.items() if own_id not in accepted}
        if after != before:
            text = "".join(f"{json.dumps(asdict(each))}\n" for each in after.values())
            replace_file(path, text.encode())


def forget(document: Document, ids: Collection[str]) -> None:
    """Forget the rejected pairs with these ids. Raises as `keep` does."""
    keep(document, [], ids)


def _path(document: Document) -> Path:
    return synth_dir(document.frontmatter.dlm_id) / "rejected.jsonl"


def _read(document: Document) -> dict[str, Rejected]:
    hint = "Delete it; rerunning the synth command writes it again from the ledger, free."
    return {each.item.section_id: each for each in read_records(_path(document), _REJECTED, "a rejected pair", hint)}
