"""Rows of one document that is already parsed, without the builder and its cache on disk.

rows = parsed_rows(read("notes.dlm"), "prose")        # Dataset, or None if the document has no rows of that kind
"""

from __future__ import annotations

from datasets import Dataset

from dlm_trl.notes import Document
from dlm_trl.notes.sources import expand, source_weights
from dlm_trl.rows.convert import convert, features


def parsed_rows(
    document: Document, kind: str = "sft", adapter: str | None = None, expand_sources: bool = False
) -> Dataset | None:
    """The same rows as `load_dlm(path, kind, …)` gives for the document's file, in memory; None if there are none.

    Raises DlmError for malformed sections, undeclared adapters and, with expand_sources, files that can't be read.
    """
    weights = None
    if expand_sources:
        weights = source_weights(document)
        document = expand(document)
    rows = list(convert(document, kind, adapter, weights=weights))
    return Dataset.from_list(rows, features=features(kind)) if rows else None
