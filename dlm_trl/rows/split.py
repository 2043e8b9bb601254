"""Split rows into training and validation, keeping rows about the same text together.

    parts = split(load_dlm("notes.dlm", split="train"), validation_fraction=0.1)      # {"train": …, "validation": …}

A row's side depends only on a hash of the seed and its `source_group`, which a prose section shares with the pairs
synthesised from it and with its weighted copies. So adding sections doesn't move other rows, and prose and pairs that
are loaded separately agree.
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
VALIDATION_FRACTION = 0.1  # the default


def split(
    dataset: Dataset, validation_fraction: float = VALIDATION_FRACTION, seed: int = 42, method: Method = "source_group"
) -> DatasetDict:
    """Split into "train" and "validation", keeping the order and applying the rows' weights.

    method: "source_group" keeps groups together, so the fraction of validation rows is approximate. "reference" splits
    row by row, like the format's reference implementation. Raises DlmError (UsageError) for a fraction outside [0, 1),
    and for rows without our columns.
    """
    if not 0 <= validation_fraction < 1:
        raise UsageError(f"validation_fraction is {validation_fraction}.", hint="Use 0 ≤ fraction < 1.")
    if method not in _METHODS:
        raise UsageError(f"Unknown split method {method!r}.", hint=f"Use {_NAMES}.")
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
            logger.warning("The %s split is empty: there are only %d rows for this fraction.", name, len(dataset))
    return DatasetDict({name: apply_weights(part, seed) for name, part in parts.items()})


def in_validation(group: str, validation_fraction: float, seed: int) -> bool:
    """Whether rows of this source group are in the validation split; also works as a filter for streaming."""
    return _uniform(f"{seed}\0{group}") < validation_fraction


def apply_weights(dataset: Dataset, seed: int = 42) -> Dataset:
    """Repeat each row according to its `weight`, copies next to each other; weight 0 drops the row.

    The fractional part becomes a copy or not by a hash of the seed and the section, so all rows of a section get the
    same number of copies.
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
            f"The rows lack the columns {', '.join(missing)}.",
            hint="Split the rows right after load_dlm, before you remove columns.",
        )
