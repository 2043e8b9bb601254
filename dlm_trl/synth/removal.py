"""Remove sections that a teacher or a judge wrote from a document, unless a person added text to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlm_trl.notes import Document, Section, edit
from dlm_trl.notes.errors import StagingError
from dlm_trl.synth.staging import resolve_ids


def choose(
    sections: Sequence[Section], ids: Sequence[str] | None, teacher: str | None, teacher_of: Callable[[Section], str]
) -> list[Section]:
    """The sections with these ids (or prefixes; None: all) and of this teacher (None: of all).

    Raises DlmError as `resolve_ids` does.
    """
    wanted = None if ids is None else set(resolve_ids(ids, [section.bare_id for section in sections]))
    return [
        section
        for section in sections
        if (wanted is None or section.bare_id in wanted) and (teacher is None or teacher_of(section) == teacher)
    ]


def remove(document: Document, sections: Sequence[Section], added: int | None, what: str) -> Document:
    """The document without these sections.

    added: the line of text that a person added to one of them, or None. what: what the text follows. Raises DlmError:
    StagingError if there is such text, and as `edit.remove` does. The document is then unchanged.
    """
    if added:
        raise StagingError(
            f"This text follows {what} in the same section and would be removed with it.",
            hint="To keep it, put a line `::prose::` before it; otherwise delete it. Then revert again.",
            path=document.path,
            line=added,
        )
    lines = {section.start_line for section in sections}
    return edit.remove(document, lambda section: section.start_line in lines)
