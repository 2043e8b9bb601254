"""Write staged pairs into the document and remove them again: `apply(path)`, `revert(path)`.

    result = apply("notes.dlm", ["3f2a", "90c1"])   # these pairs; without ids, everything that is staged
    revert("notes.dlm", teacher="hf:tiny")          # without teacher and ids, every synthesised pair

Both splice bytes (`notes.edit`), so the rest of the file stays byte for byte as it was, and reverting what was applied
restores the original file. Both take a path, or a `Document` that was read before; they are then refused if the file
has changed since. Neither asks a teacher anything.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from dlm_trl.notes import Document, Section, edit, read
from dlm_trl.notes.edit import Target
from dlm_trl.notes.errors import StagingError
from dlm_trl.synth.guard import make_safe, synth_section
from dlm_trl.synth.passage import prose_by_id
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.removal import choose, remove
from dlm_trl.synth.staging import Staged, drop, line_after_pair, resolve_ids, staged

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """The document as it is now, the pairs that were written, and those it already contained."""

    document: Document
    pairs: list[Staged]
    present: list[Staged]

    @property
    def count(self) -> int:
        """Number of pairs written."""
        return len(self.pairs)


@dataclass(frozen=True, slots=True)
class Reverted:
    """The document as it is now, and the sections that were removed."""

    document: Document
    sections: list[Section]

    @property
    def count(self) -> int:
        """Number of sections removed."""
        return len(self.sections)


def apply(target: Target, ids: Sequence[str] | None = None) -> Applied:
    """Append the staged pairs with these ids (or id prefixes; None: all) to the document and unstage them.

    A pair that the document already contains is only unstaged, so a second call finishes what a killed one started.
    Raises DlmError: as `staged`, `resolve_ids` and `edit.append` do, and StagingError for a pair staged by another
    program that the document can't represent. The document is then unchanged.
    """
    document = target if isinstance(target, Document) else read(target)
    items = staged(document)
    if ids is not None:
        wanted = set(resolve_ids(ids, [item.section_id for item in items]))
        items = [item for item in items if item.section_id in wanted]
    existing = {section.bare_id for section in document.sections}
    present = [item for item in items if item.section_id in existing]
    # Another program may have staged the same pair twice.
    pairs = list({item.section_id: item for item in items if item.section_id not in existing}.values())
    edited = edit.append(document, *(_text(document, item) for item in pairs))
    prose_ids = {name for section in document.sections if section.kind == "prose" for name in section.names}
    if stale := sum(item.source_section_id not in prose_ids for item in pairs):
        warning = "%s: the prose of %d pairs was edited or removed; `dlm-trl check` lists them."
        logger.warning(warning, document.path, stale)
    drop(edited, [item.section_id for item in items])
    return Applied(edited, pairs, present)


def revert(target: Target, ids: Sequence[str] | None = None, teacher: str | None = None) -> Reverted:
    """Remove synthesised pairs from the document: all, or only those with these ids (or prefixes) or this teacher.

    Raises DlmError: as `resolve_ids` and `edit.remove` do, and StagingError if a section to be removed also contains
    text that someone added after the pair. The document is then unchanged.
    """
    document = target if isinstance(target, Document) else read(target)
    every = [section for section in document.sections if section.auto_synth]
    sections = choose(every, ids, teacher, lambda section: str(section.provenance["synth_teacher"]))
    added = line_after_pair(document, sections)
    return Reverted(remove(document, sections, added, "a synthesised answer"), sections)


def resolve_source(document: Document, source_section_id: str) -> Section | None:
    """The prose section that a pair was made from, or None if it was changed or removed; see `prose_by_id` for many."""
    return prose_by_id(document).get(source_section_id)


def _text(document: Document, item: Staged) -> str:
    if make_safe(item.pair) != item.pair:
        raise StagingError(
            f"The staged pair {item.section_id} can't be written into the document as it is.",
            hint=f"Another program staged it; remove it with `dlm-trl synth drop FILE {item.section_id[:8]}`.",
            path=document.path,
        )
    return synth_section(
        item.pair,
        teacher=item.teacher,
        strategy=cast(Strategy, item.strategy),  # the format allows any text
        synth_at=item.synth_at,
        source_section_id=item.source_section_id,
        adapter=item.adapter,
    )
