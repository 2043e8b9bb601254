"""Decisions about staged and rejected pairs: accept, with or without an edit, drop, and undo the last one.

    review = Review("notes.dlm")
    review.accept(section_id, review.version)            # into the file, by `synth.apply`
    review.undo(review.version)                          # out of it again: the file has the same bytes as before

Decisions are carried out at once, in the file and in the document's store, so they survive the end of this process;
only what `undo` needs is kept in memory. Nothing is decided about a document that was changed since it was read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import DlmError, ReviewError
from dlm_trl.synth import staging
from dlm_trl.synth.apply import apply, revert
from dlm_trl.synth.guard import Refusal, make_safe
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.rejected import DROPPED, Rejected, forget, keep, rejected
from dlm_trl.synth.staging import Staged, applied, edited, restage, staged

State = Literal["staged", "applied", "rejected"]
_RELOAD = "Reload the page to review it as it is now."


@dataclass(frozen=True, slots=True)
class Decision:
    """A pair after a decision.

    was: the id by which the page knew it; an edited pair has another one. stage, reason: of a rejected pair. is_new:
    False if the pair had been decided about before, in another tab or by another command, and nothing was done.
    """

    was: str
    item: Staged
    state: State
    message: str
    stage: str | None = None
    reason: str | None = None
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class _Done:
    """What `undo` needs.

    before, after: the pair before and after the decision. position: in staging. rejection: of a rejected pair instead.
    """

    kind: Literal["accept", "drop"]
    before: Staged
    after: Staged
    position: int | None
    rejection: Rejected | None = None


class Review:
    """The review of one document. For one thread at a time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises DlmError as `read` does."""
        self._path = path
        self._done: list[_Done] = []
        self.document: Document = read(path)
        self.version = 1

    def reload(self) -> Document:
        """Read the document again. A page that shows an older version can't decide any more. Raises as `read` does."""
        document = read(self._path)
        if document.raw != self.document.raw:
            self.version += 1
        self.document = document
        return document

    def count(self, kind: Literal["accept", "drop"]) -> int:
        """How many decisions of this kind were made and not undone."""
        return sum(done.kind == kind for done in self._done)

    @property
    def last(self) -> QAPair | None:
        """The pair that `undo` is about."""
        return self._done[-1].after.pair if self._done else None

    def accept(
        self, section_id: str, version: int, pair: QAPair | None = None, state: Literal["staged", "rejected"] = "staged"
    ) -> Decision:
        """Write a pair that is in this state into the document; pair: with these texts instead of its own.

        Raises DlmError: ReviewError if the document has changed since this version or the texts can't be written, and
        as `apply` does. Nothing has changed then.
        """
        self._check(version)
        items = staged(self.document)
        position = _position(items, section_id)
        lost = self._rejected(section_id) if state == "rejected" else None
        if position is not None and state == "staged":
            before = items[position]
        elif lost is not None:
            before = lost.item
        else:
            return self._decided(section_id)
        after = before if pair is None or pair == before.pair else edited(before, _safe(pair))
        is_edit = after.section_id != before.section_id
        known = {section.bare_id for section in self.document.sections} | {item.section_id for item in items}
        if is_edit and after.section_id in known:
            raise ReviewError(
                "The same pair is staged or in the document already.", hint="Change its text, or drop it."
            )
        restage(self.document, after, position)
        try:
            done = apply(self.document, [after.section_id])
        except DlmError:
            if is_edit or lost:
                staging.drop(self.document, [after.section_id])
            raise
        self.document = done.document
        if not done.pairs:
            return Decision(section_id, after, "applied", "The document already contained this pair.", is_new=False)
        if is_edit:
            staging.drop(self.document, [section_id])
        self._done.append(_Done("accept", before, after, position, lost))
        return Decision(section_id, after, "applied", "Accepted with your edit." if is_edit else "Accepted.")

    def drop(self, section_id: str, version: int) -> Decision:
        """Remove a pair from staging, and keep it with the rejected ones. Raises as `accept` does."""
        self._check(version)
        items = staged(self.document)
        position = _position(items, section_id)
        if position is None:
            return self._decided(section_id)
        item = items[position]
        lost = Rejected(item, DROPPED, "dropped by a person")
        keep(self.document, [lost])
        staging.drop(self.document, [section_id])
        self._done.append(_Done("drop", item, item, position))
        return Decision(section_id, item, "rejected", "Dropped.", lost.stage, lost.reason)

    def undo(self, version: int) -> Decision:
        """Take the last decision back: the document and the staged pairs are as they were before it.

        Raises as `accept` does, and ReviewError if there is nothing to undo.
        """
        self._check(version)
        if not self._done:
            raise ReviewError(
                "There is nothing to undo.", hint="Only decisions since the page was started can be undone."
            )
        done = self._done[-1]
        own_id = done.after.section_id
        if done.kind == "accept" and _position(applied(self.document), own_id) is None:
            self._done.pop()
            raise ReviewError(
                f"The pair {own_id[:8]} was edited or removed in the document since, so it isn't taken out.",
                hint="Take it out in an editor. Undo goes on with the decision before.",
            )
        if done.rejection is None:
            restage(self.document, done.before, done.position)
        try:
            if done.kind == "accept":
                self.document = revert(self.document, [own_id]).document
        except DlmError:
            staging.drop(self.document, [done.before.section_id])
            raise
        if done.kind == "drop":
            forget(self.document, [own_id])
        self._done.pop()
        lost = done.rejection
        return Decision(
            own_id, done.before, "rejected" if lost else "staged", "Undone.", lost.stage if lost else None,
            lost.reason if lost else None,
        )  # fmt: skip

    def _check(self, version: int) -> None:
        if version != self.version or read(self._path).raw != self.document.raw:
            raise ReviewError("The document was changed outside of this page, so nothing was decided.", hint=_RELOAD)

    def _rejected(self, section_id: str) -> Rejected | None:
        return next((each for each in rejected(self.document) if each.item.section_id == section_id), None)

    def _decided(self, section_id: str) -> Decision:
        """What became of a pair that isn't in the state any more that the page shows."""
        ids = {section_id} | {done.after.section_id for done in self._done if done.before.section_id == section_id}
        for item in applied(self.document):
            if item.section_id in ids:
                return Decision(section_id, item, "applied", "This pair was already accepted.", is_new=False)
        if lost := self._rejected(section_id):
            message = "This pair was already dropped."
            return Decision(section_id, lost.item, "rejected", message, lost.stage, lost.reason, is_new=False)
        for item in staged(self.document):
            if item.section_id == section_id:
                return Decision(section_id, item, "staged", "This pair is staged again.", is_new=False)
        raise ReviewError("This pair isn't staged any more: another command dropped it.", hint=_RELOAD)


def _position(items: list[Staged], section_id: str) -> int | None:
    return next((i for i, item in enumerate(items) if item.section_id == section_id), None)


def _safe(pair: QAPair) -> QAPair:
    safe = make_safe(pair)
    if isinstance(safe, Refusal):
        raise ReviewError(f"This can't be written into the document. {safe.reason}", hint="Edit it again.")
    return safe
