"""Prose views: sentences that a teacher wrote about facts of a document, kept beside it as training rows.

    views = live_views(document, read_views(document))
    rows = view_rows(document, weight=1.0)               # Dataset with `text`, or None

The format has no place for prose that a model wrote: in the file it would look like the author's own. So these rows
never enter the file. `$DLM_HOME/store/<dlm_id>/synth/views.jsonl` has one per line. A row whose sentence was edited or
removed stays in the file, but isn't trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dlm_trl.notes import Document, Section
from dlm_trl.notes.files import locked, replace_file
from dlm_trl.notes.records import read_records
from dlm_trl.notes.sentences import paragraphs, sentence_lines
from dlm_trl.notes.store import synth_dir

if TYPE_CHECKING:
    from datasets import Dataset

Text = Annotated[str, Field(min_length=1)]


class ProseView(BaseModel):
    """A sentence, or a few, that say the same as a fact, follow from it, or sum up several.

    section_id: of the prose. line: in the file, where its first fact starts. kind: rewrite, implication or summary.
    facts: the sentences of the prose that it is about, verbatim. at: when it was written, ISO 8601, UTC. request_key:
    of the teacher's reply in the ledger. scores: the judge's, by name; None without a judge.
    """

    model_config = ConfigDict(frozen=True)

    section_id: Text
    line: int
    kind: Text
    text: Text
    facts: Annotated[tuple[Text, ...], Field(min_length=1)]
    teacher: Text
    at: Text
    request_key: Text
    scores: dict[str, float] | None = None


_VIEWS = TypeAdapter(ProseView)


def views_path(document: Document) -> Path:
    """The file with the document's prose views; it need not exist."""
    return synth_dir(document.frontmatter.dlm_id) / "views.jsonl"


def read_views(document: Document) -> list[ProseView]:
    """All prose views in the document's store, oldest first. Raises DlmError (StagingError) if the file is damaged."""
    hint = "Repair or delete it; `dlm-trl synth views` writes it again from the ledger, free."
    return read_records(views_path(document), _VIEWS, "a prose view", hint)


def add_views(document: Document, new: Sequence[ProseView]) -> list[ProseView]:
    """Add views to the document's store, and return those whose text wasn't there. The file is replaced as a whole.

    Raises DlmError: StagingError, DlmWriteError. The folder must exist.
    """
    with locked(views_path(document)):
        stored = read_views(document)
        known = {view.text for view in stored}
        added = list({view.text: view for view in reversed(new) if view.text not in known}.values())[::-1]
        if added:
            _write(document, [*stored, *added])
        return added


def remove_views(document: Document, teacher: str | None = None) -> int:
    """Remove all prose views from the document's store, or one teacher's, and return their number. Raises likewise."""
    return _remove(document, lambda view: teacher is None or view.teacher == teacher)


def discard_views(document: Document, texts: Collection[str]) -> int:
    """Remove the prose views with these texts from the document's store, and return their number. Raises likewise."""
    return _remove(document, lambda view: view.text in texts)


def live_views(document: Document, views: Iterable[ProseView]) -> list[ProseView]:
    """The views whose sentences are all still in one section, with the id and the line that these have now."""
    if not (views := list(views)):
        return []
    prose = [section for section in document.sections if section.kind == "prose"]
    lines = [line_of_each(section) for section in prose]
    ids = {name: i for i, section in reversed(list(enumerate(prose))) for name in section.names}
    having: dict[str, list[int]] = {}
    for i, of_section in enumerate(lines):
        for sentence in of_section:
            having.setdefault(sentence, []).append(i)
    live = []
    for view in views:
        places = [i for i in having.get(view.facts[0], ()) if lines[i].keys() >= set(view.facts)]
        if places:
            at = ids.get(view.section_id, places[0])
            at = at if at in places else places[0]
            place = {"section_id": prose[at].section_id, "line": lines[at][view.facts[0]]}
            live.append(view.model_copy(update=place))
    return live


def view_rows(document: Document, weight: float, section_ids: Collection[str], seed: int) -> Dataset | None:
    """The live views of these sections as rows of kind `prose`, each `weight` times; None if there are none.

    A fractional weight adds a copy of some rows, chosen by a hash of the seed and the row. Raises DlmError
    (StagingError).
    """
    from datasets import Dataset

    from dlm_trl.rows.convert import features
    from dlm_trl.rows.split import apply_weights

    sections = {section.section_id: section for section in document.sections}
    rows = [
        _row(view, sections[view.section_id], document, weight)
        for view in live_views(document, read_views(document))
        if view.section_id in section_ids
    ]
    if not rows:
        return None
    return apply_weights(Dataset.from_list(rows, features=features("prose")), seed) or None


def _row(view: ProseView, section: Section, document: Document, weight: float) -> dict[str, Any]:
    return {
        "text": view.text,
        "source_file": os.fsencode(document.path or "").decode(errors="replace"),
        "line": view.line,
        "section_id": hashlib.sha256(view.text.encode()).hexdigest()[:16],  # its own, by which weights are applied
        "source_group": section.bare_id,
        "auto_synth": True,
        "teacher": view.teacher,
        "strategy": view.kind,
        "source_section_id": section.section_id,
        "adapter": section.adapter,
        "tags": [],
        "weight": weight,
    }


def line_of_each(section: Section) -> dict[str, int]:
    """The sentences of a section, each with the file line in which it starts."""
    texts = [sentence for paragraph in paragraphs(section.content) for sentence in paragraph]
    lines: dict[str, int] = {}
    for text, line in zip(texts, sentence_lines(section.content), strict=True):
        lines.setdefault(text, section.content_line + line)
    return lines


def _remove(document: Document, matches: Callable[[ProseView], bool]) -> int:
    if not os.path.exists(views_path(document)):
        return 0
    with locked(views_path(document)):
        stored = read_views(document)
        kept = [view for view in stored if not matches(view)]
        if len(kept) < len(stored):
            _write(document, kept)
        return len(stored) - len(kept)


def _write(document: Document, views: Sequence[ProseView]) -> None:
    text = "".join(f"{json.dumps(view.model_dump(exclude_none=True))}\n" for view in views)
    replace_file(views_path(document), text.encode())
