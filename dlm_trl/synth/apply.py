"""Staged pairs into the document, and out again: `apply(path)`, `revert(path)`; `resolve_source` finds a pair's prose.

    done = apply("notes.dlm", ["3f2a", "90c1"])     # done.count pairs more; without ids, everything that is staged
    revert("notes.dlm", teacher="hf:tiny")          # without a teacher and ids, all synthesised pairs

Both splice bytes (`notes.edit`): what is not meant stays as it was, and reverting what was applied gives the original
bytes back. No teacher is asked anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from dlm_trl.notes import Document, Section, edit, read
from dlm_trl.notes.errors import StagingError
from dlm_trl.synth.guard import make_safe, synth_section
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.staging import Staged, drop, line_behind, resolve_ids, staged

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """The document as it is now, the pairs that were written, and those that it held already."""

    document: Document
    pairs: list[Staged]
    present: list[Staged]

    @property
    def count(self) -> int:
        """How many pairs were written."""
        return len(self.pairs)


@dataclass(frozen=True, slots=True)
class Reverted:
    """The document as it is now, and the sections that were removed."""

    document: Document
    sections: list[Section]

    @property
    def count(self) -> int:
        """How many sections were removed."""
        return len(self.sections)


def apply(path: str | os.PathLike[str], ids: Sequence[str] | None = None) -> Applied:
    """Writes the staged pairs of these ids (beginnings suffice; None: all) at the document's end, in one splice, and
    takes them out of staging.

    A pair that the document holds already is only taken out of staging: so, what was killed between the two is
    finished by the next call. Raises DlmError: as `staged`, `resolve_ids` and `edit.append` do, and StagingError
    for a pair that another program staged and the document cannot hold. The document is untouched then.
    """
    document = read(path)
    items = staged(document)
    if ids is not None:
        wanted = set(resolve_ids(ids, [item.section_id for item in items]))
        items = [item for item in items if item.section_id in wanted]
    held = {section.bare_id for section in document.sections}
    present = [item for item in items if item.section_id in held]
    # Another program may have staged the same pair twice.
    pairs = list({item.section_id: item for item in items if item.section_id not in held}.values())
    after = edit.append(document, *(_text(document, item) for item in pairs))
    known = {name for section in document.sections if section.kind == "prose" for name in section.names}
    if stale := sum(item.source_section_id not in known for item in pairs):
        logger.warning("%s: the prose of %d pairs was edited or removed; `dlm-trl check` names them.", path, stale)
    drop(after, [item.section_id for item in items])
    return Applied(after, pairs, present)


def revert(path: str | os.PathLike[str], ids: Sequence[str] | None = None, teacher: str | None = None) -> Reverted:
    """Removes the document's synthesised pairs and nothing else: those of these ids (beginnings suffice) and of this
    teacher, where they are given.

    Raises DlmError: as `resolve_ids` and `edit.remove` do, and StagingError where somebody's own text stands in a
    pair's section. The document is untouched then.
    """
    document = read(path)
    sections = [section for section in document.sections if section.auto_synth]
    if ids is not None:
        wanted = set(resolve_ids(ids, [section.bare_id for section in sections]))
        sections = [section for section in sections if section.bare_id in wanted]
    if teacher is not None:
        sections = [section for section in sections if section.provenance["synth_teacher"] == teacher]
    if line := line_behind(document, sections):
        raise StagingError(
            "This text stands behind a synthesised answer, in its section, and would be removed with it.",
            hint="To keep it, put a line `::prose::` in front of it; else delete it. Then revert again.",
            path=document.path,
            line=line,
        )
    lines = {section.start_line for section in sections}
    return Reverted(edit.remove(document, lambda section: section.start_line in lines), sections)


def resolve_source(document: Document, source_section_id: str) -> Section | None:
    """The prose section that a pair was made from, None where it is no longer there or was changed.

    Blank lines at a section's end are part of its id, and come and go as others write there: with none or with one
    it is the same section.
    """
    prose = [section for section in document.sections if section.kind == "prose"]
    exact = [section for section in prose if section.section_id == source_section_id]
    near = [section for section in prose if source_section_id in section.names]
    return next(iter(exact + near), None)


def _text(document: Document, item: Staged) -> str:
    if make_safe(item.pair) != item.pair:
        raise StagingError(
            f"The document cannot hold the staged pair {item.section_id} as it is.",
            hint=f"Another program staged it; `dlm-trl synth drop FILE {item.section_id[:8]}` takes it out.",
            path=document.path,
        )
    return synth_section(
        item.pair,
        teacher=item.teacher,
        strategy=cast(Strategy, item.strategy),  # the format takes any text
        synth_at=item.synth_at,
        source_section_id=item.source_section_id,
        adapter=item.adapter,
    )
