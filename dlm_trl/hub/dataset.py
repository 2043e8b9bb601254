"""What a push of a document sends: its rows as a dataset, `dataset_upload(read("notes.dlm"), "me/notes-rows")`.

One Parquet file for each kind of rows, which `load_dataset(repo, kind)` reads. The rows are those that training reads;
`source_file` and `teacher` go without the folders of this machine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from datasets import Dataset

from dlm_trl.hub.dataset_card import RowCounts, dataset_card
from dlm_trl.hub.upload import CARD, Upload
from dlm_trl.notes import Document
from dlm_trl.notes.errors import HubError, NoRowsError
from dlm_trl.notes.escape import redact, without_folders
from dlm_trl.rows.convert import Row
from dlm_trl.rows.parsed import parsed_rows
from dlm_trl.rows.views import view_rows

VIEWS = "views"  # prose views, which a teacher wrote and the store keeps beside the document
KINDS = ("sft", "preference", "prose", VIEWS)
_NOBODY = re.compile(r"\s*|unknown|none|null|n/?a", re.IGNORECASE)


def dataset_upload(
    document: Document, repo_id: str, license: str | None = None, kinds: Sequence[str] = KINDS
) -> Upload:
    """The rows of these kinds, as far as the document has any, and the card.

    license: an id of the Hub. Raises DlmError: HubError for synthesised rows whose teacher isn't known, NoRowsError
    without any rows, and the errors of malformed sections.
    """
    parts = {kind: rows for kind in KINDS if kind in kinds and (rows := _rows(document, kind)) is not None}
    if not parts:
        raise NoRowsError(f"The document has no rows of these kinds: {', '.join(kinds)}.", path=document.path)
    files: dict[str, Path | bytes] = {_file(kind): _parquet(rows) for kind, rows in parts.items()}
    counts = {kind: _counts(rows) for kind, rows in parts.items()}
    files[CARD] = dataset_card(document, counts, {kind: _file(kind) for kind in parts}, repo_id, license).encode()
    notes = [f"The text of the notes is in it: {len(parts['prose']):,} sections of prose."] if "prose" in parts else []
    if license is None:
        notes.append("No licence: give --license, such as cc-by-4.0. The card says that it is missing.")
    return Upload("dataset", "dataset", files, replaces=("data/*.parquet",), notes=tuple(notes))


def _file(kind: str) -> str:
    return f"data/{kind}-train.parquet"


def _rows(document: Document, kind: str) -> Dataset | None:
    if kind == VIEWS:
        ids = {section.section_id for section in document.sections}
        rows = view_rows(document, weight=1.0, section_ids=ids, seed=0)
    else:
        rows = parsed_rows(document, kind)
    if rows is None:
        return None
    for row in rows:
        if row["auto_synth"] and _NOBODY.fullmatch(row["teacher"] or ""):
            raise HubError(
                f"This row is synthesised, and its teacher isn't known (synth_teacher is {row['teacher']!r}), so the "
                "card can't say who wrote it.",
                "Write the teacher into the section's marker, or remove the section.",
                path=document.path,
                line=row["line"],
            )
    return Dataset.from_list([*_published(rows)], features=rows.features)


def _published(rows: Dataset) -> Iterator[Row]:
    for row in rows:
        teacher = row["teacher"]
        named = {"source_file": Path(row["source_file"]).name, "teacher": teacher and _named(teacher)}
        yield {**row, **named}


def _named(teacher: str) -> str:
    return redact(without_folders(teacher))


def _counts(rows: Dataset) -> RowCounts:
    teachers = Counter(teacher for teacher in rows["teacher"] if teacher)
    strategies = Counter(strategy for strategy in rows["strategy"] if strategy)
    return RowCounts(len(rows), dict(teachers.most_common()), dict(strategies.most_common()))


def _parquet(rows: Dataset) -> bytes:
    rows.to_parquet(content := BytesIO())
    return content.getvalue()
