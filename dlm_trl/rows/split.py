"""Training and validation rows, parted so that what tells of the same text stays together.

    parts = split(load_dlm("notes.dlm", split="train"), validation_fraction=0.1)      # {"train": …, "validation": …}

A row's side is a hash of its `source_group` (a prose section, the pairs synthesised from it and its weighted copies
share one) and of the seed, nothing else. So it stays where it is when sections are added, and prose and pairs that
are loaded apart agree.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from datasets import Dataset, DatasetDict

from dlm_trl.notes.errors import UsageError

logger = logging.getLogger(__name__)

Method = Literal["source_group", "reference"]
VALIDATION_FRACTION = 0.1  # unless the user says otherwise


def split(
    dataset: Dataset, validation_fraction: float = VALIDATION_FRACTION, seed: int = 42, method: Method = "source_group"
) -> DatasetDict:
    """The rows as "train" and "validation", each in their order, with the copies that their weights ask for.

    method "source_group" keeps groups whole, so the share of validation rows is only near validation_fraction.
    "reference" takes the rows of a section one by one, as the format's reference implementation does. Raises DlmError
    for a fraction outside [0, 1) and for rows that are not ours.
    """
    if not 0 <= validation_fraction < 1:
        raise UsageError(f"validation_fraction is {validation_fraction}.", hint="Use 0 ≤ fraction < 1.")
    if method not in _METHODS:
        raise UsageError(f"There is no split method {method!r}.", hint=f"Use {_NAMES}.")
    _require(dataset, "source_group", "section_id", "weight")
    validation = _METHODS[method](dataset, validation_fraction, seed)
    parts = DatasetDict(
        {
            "train": dataset.select([i for i, held_out in enumerate(validation) if not held_out]),
            "validation": dataset.select([i for i, held_out in enumerate(validation) if held_out]),
        }
    )
    for name, part in parts.items():
        if not len(part) and (name == "train" or validation_fraction > 0):
            logger.warning("The %s part is empty: %d rows are too few for this fraction.", name, len(dataset))
    return DatasetDict({name: apply_weights(part, seed) for name, part in parts.items()})


def in_validation(group: str, validation_fraction: float, seed: int) -> bool:
    """Whether rows of this source group are held out; usable as a filter on a stream."""
    return _uniform(f"{seed}\0{group}") < validation_fraction


def apply_weights(dataset: Dataset, seed: int = 42) -> Dataset:
    """Each row as often as its `weight` says, copies side by side.

    A fraction becomes one more copy or none by a hash of seed and section, so the rows of a section are copied alike;
    0 drops.
    """
    _require(dataset, "section_id", "weight")
    weights = dataset["weight"]
    if all(weight == 1 for weight in weights):
        return dataset
    rows: list[int] = []
    for index, (weight, section) in enumerate(zip(weights, dataset["section_id"], strict=True)):
        whole = math.floor(weight)
        digest = hashlib.blake2b(f"{seed}:{section}".encode(), digest_size=8).digest()
        rows += [index] * (whole + (int.from_bytes(digest, "big") / 2**64 < weight - whole))
    return dataset.select(rows)


def _by_source_group(dataset: Dataset, fraction: float, seed: int) -> list[bool]:
    return [in_validation(group, fraction, seed) for group in dataset["source_group"]]


def _by_reference(dataset: Dataset, fraction: float, seed: int) -> list[bool]:
    seen: Counter[str] = Counter()
    validation = []
    for section in dataset["section_id"]:
        validation.append(_first_64_bits(f"{seed}\0{section}\0{seen[section]}") < int(fraction * 2**64))
        seen[section] += 1
    return validation


_METHODS: dict[str, Callable[[Dataset, float, int], Sequence[bool]]] = {
    "source_group": _by_source_group,
    "reference": _by_reference,
}
_NAMES = " or ".join(repr(name) for name in _METHODS)


def _uniform(text: str) -> float:
    return _first_64_bits(text) / 2**64


def _first_64_bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _require(dataset: Dataset, *columns: str) -> None:
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise UsageError(
            f"The rows have no column {', '.join(missing)}.",
            hint="Split them as load_dlm gives them, before other columns are dropped.",
        )
