"""What a folder of weights was made from, step by step: `lineage.json`; and the fingerprint that tells bases apart.

    {"steps": [{"step": "train", "base": "tiny", …}, {"step": "merge", …}, {"step": "awq", …}]}

Training writes the first step beside the adapter; merging and quantising take the list along and add theirs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import safe_open

from dlm_trl.models.weights import Weights
from dlm_trl.notes.errors import LineageError
from dlm_trl.notes.files import replace_file

FILE = "lineage.json"
Step = dict[str, Any]
Fields = Mapping[str, Any]

# The fields of a record that other code reads, by name, with their types or nested fields: hand-written files may lack
# some. The steps of the export bring their own (`export.steps`).
FIELDS: dict[str, Fields] = {
    "train": {
        "base": str,
        "rows": dict,
        "adapter": {"type": str, "rank": int},
        "seed": int,
        "base_fingerprint": (dict, NoneType),
        **dict.fromkeys(("document", "task", "quantization"), (str, NoneType)),
    },
}
TENSORS, ROWS = 8, 64  # what of a base is hashed: so many matrices, spread over the model, so many rows of each
VOLATILE = {"_name_or_path", "transformers_version", "use_cache"}  # a copy of the same weights may differ in these


def read(folder: Path, fields: Mapping[str, Fields] = FIELDS) -> list[Step]:
    """The steps that led to this folder, the first one first; none where it holds no lineage.

    fields: what the records of each step must contain. Raises DlmError (LineageError).
    """
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        steps = json.loads(file.read_text(encoding="utf-8"))["steps"]
        json.dumps(steps, ensure_ascii=False).encode()  # JSON can say half a character, which no file takes
        return [_checked(step, fields) for step in steps]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise lineage_error(file, why) from error


def write(folder: Path, steps: Sequence[Mapping[str, Any]]) -> None:
    """Write all steps down, in place of what the folder said before."""
    text = json.dumps({"steps": list(steps)}, ensure_ascii=False, indent=2)
    replace_file(folder / FILE, f"{text}\n".encode())


def last(steps: Sequence[Step], name: str) -> Step | None:
    """The last step of this name, None where there is none."""
    return next((step for step in reversed(steps) if step["step"] == name), None)


def lineage_error(file: Path, why: str) -> LineageError:
    """A DlmError (LineageError) about this file."""
    return LineageError(
        f"This is no lineage: {why}.",
        hint="Make the folder again from the step before; the file beside an adapter may also be removed.",
        path=file,
    )


def fingerprint(weights: Weights) -> dict[str, Any]:
    """SHA-256 of the base's configuration, and of the first rows of some of its matrices, by tensor name.

    Merging compares it, so that an adapter is never added to weights that it was not trained on.
    """
    config = json.loads(weights.config.read_text(encoding="utf-8"))
    said = json.dumps({key: value for key, value in config.items() if key not in VOLATILE}, sort_keys=True)
    matrices = sorted(name for name, shape in weights.shapes().items() if len(shape.size) > 1)
    chosen = matrices[:: -(-len(matrices) // TENSORS)]
    return {
        "config": hashlib.sha256(said.encode()).hexdigest(),
        "tensors": {name: _rows_hash(weights.files[name], name) for name in chosen},
    }


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(step: Step, fields: Mapping[str, Fields]) -> Step:
    if not isinstance(step["step"], str):
        raise TypeError(f"{step['step']!r} is no name of a step")
    _check_fields(step, fields.get(step["step"], {}), step["step"])
    found = step.get("base_fingerprint")
    if found is not None and not isinstance(found["tensors"], dict):
        raise TypeError(f"base_fingerprint is {found!r:.60}")
    return step


def _check_fields(said: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> None:
    for name, kind in fields.items():
        if not isinstance(said[name], dict if isinstance(kind, dict) else kind):
            raise TypeError(f"{name} of {where} is {said[name]!r:.60}")
        if isinstance(kind, dict):
            _check_fields(said[name], kind, f"{where}'s {name}")


def _rows_hash(file: Path, name: str) -> str:
    with safe_open(file, framework="pt") as tensors:
        rows = tensors.get_slice(name)[:ROWS].contiguous()
    said = f"{rows.dtype} {tuple(rows.shape)}"
    return hashlib.sha256(said.encode() + rows.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
