"""The batches in a ledger: which requests were submitted together, and which of these are still to be answered.

    ledger.record_batch(batch := to_submit(keys))       # before it is submitted
    ledger.record_batch(submitted(label, batch_id))     # the provider's id, once it is known
    ledger.record_batch(unanswered(label, keys))        # these came back without a reply
    ledger.batches.of(keys)                             # the batches that have these requests

A reply in the ledger answers its request, so a batch whose replies were recorded in part is collected again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class BatchRecord:
    """label: our name for the batch. at: when it was to be submitted. size: its number of requests.

    id: the provider's; None if the run ended before it was recorded. open: the keys of the requests without a reply.
    """

    label: str
    at: str
    size: int
    id: str | None = None
    open: set[str] = field(default_factory=set)


class BatchRecords:
    """What the lines of a ledger say about batches, read in their order."""

    def __init__(self) -> None:
        self._batches: dict[str, BatchRecord] = {}
        self._of: dict[str, BatchRecord] = {}  # by the key of an open request

    def __getitem__(self, label: str) -> BatchRecord:
        return self._batches[label]

    @property
    def ids(self) -> set[str]:
        """The provider's ids of all batches."""
        return {batch.id for batch in self._batches.values() if batch.id is not None}

    def of(self, keys: Iterable[str]) -> list[BatchRecord]:
        """The batches in which these requests are open, the oldest first."""
        labels = {batch.label for key in keys if (batch := self._of.get(key))}
        return [batch for label, batch in self._batches.items() if label in labels]

    def open(self, keys: Iterable[str]) -> set[str]:
        """Those of these requests that were submitted in a batch and have no reply yet."""
        return {key for key in keys if key in self._of}

    def read(self, line: Mapping[str, Any]) -> None:
        """Take note of a line; one that is damaged is ignored."""
        match line:
            case {"batch": str(label), "at": str(at), "keys": [*keys]} if all(isinstance(key, str) for key in keys):
                self._batches[label] = BatchRecord(label, at, len(keys))
                for key in keys:
                    self.answered(key)  # submitted again: the new batch counts
                    self._of[key] = self._batches[label]
                self._batches[label].open |= set(keys)
            case {"batch": str(label), "id": str(batch_id)} if label in self._batches:
                self._batches[label].id = batch_id
            case {"batch": str(label), "unanswered": [*keys]} if label in self._batches:
                for key in self._batches[label].open & {key for key in keys if isinstance(key, str)}:
                    self.answered(key)

    def answered(self, key: str) -> None:
        """The request is no longer open."""
        if batch := self._of.pop(key, None):
            batch.open.discard(key)


def to_submit(keys: Iterable[str], at: str) -> dict[str, Any]:
    """The line about a batch of these requests that is to be submitted now."""
    return {"batch": uuid.uuid4().hex, "at": at, "keys": list(keys)}


def submitted(label: str, batch_id: str) -> dict[str, Any]:
    """The line with the provider's id of a batch."""
    return {"batch": label, "id": batch_id}


def unanswered(label: str, keys: Iterable[str]) -> dict[str, Any]:
    """The line about requests that a batch ended without a reply to."""
    return {"batch": label, "unanswered": sorted(keys)}
