"""Lineage: `lineage.json` records, step by step, how a folder of weights was made; `fingerprint` identifies its base.

    {"steps": [{"step": "train", "base": "tiny", …}, {"step": "merge", …}, {"step": "awq", …}]}

Training writes the first step beside the adapter. Merging and quantising copy the list and append their own.
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

# The fields of a record that other code reads, by name, with their types or nested fields: files edited by hand may
# lack some. The steps of the export bring their own (`export.steps`).
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
# Those that older versions didn't write.
OPTIONAL_FIELDS: dict[str, Fields] = {
    "train": {
        **dict.fromkeys(("synthetic", "settings", "versions"), dict),
        "eval_spec": {"validation_fraction": (int, float), "split_method": str},
        "written_before": str,
        "preferences": {"loss": list, "beta": (int, float), "reference": str},
        "written_online": {"teacher": str, "share": (int, float), "stages": list},
    },
}
COUNTS = ("rows", "synthetic")  # of training rows by author
TENSORS, ROWS = 8, 64  # a fingerprint hashes this many matrices, spread over the model, and rows of each
VOLATILE = {"_name_or_path", "transformers_version", "use_cache"}  # may differ between copies of the same weights


def read(folder: Path, fields: Mapping[str, Fields] = FIELDS) -> list[Step]:
    """The steps that led to this folder, oldest first; empty without a lineage file.

    fields: what the records of each step must contain. Raises DlmError (LineageError).
    """
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        steps = json.loads(file.read_text(encoding="utf-8"))["steps"]
        json.dumps(steps, ensure_ascii=False).encode()  # JSON may escape a lone surrogate, which can't be encoded
        return [_checked(step, fields) for step in steps]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise lineage_error(file, why) from error


def write(folder: Path, steps: Sequence[Mapping[str, Any]]) -> None:
    """Replace the folder's lineage file."""
    text = json.dumps({"steps": list(steps)}, ensure_ascii=False, indent=2)
    replace_file(folder / FILE, f"{text}\n".encode())


def last(steps: Sequence[Step], name: str) -> Step | None:
    """The last step with this name, or None."""
    return next((step for step in reversed(steps) if step["step"] == name), None)


def lineage_error(file: Path, why: str) -> LineageError:
    """A DlmError (LineageError) about this file."""
    return LineageError(
        f"Malformed lineage file: {why}.",
        hint="Repeat the step that made this folder; beside an adapter you can also delete the file.",
        path=file,
    )


def fingerprint(weights: Weights) -> dict[str, Any]:
    """The SHA-256 of a base's configuration ("config"), and of the first rows of some matrices by name ("tensors").

    Merging compares it, so that an adapter is only merged into the weights that it was trained on.
    """
    config = json.loads(weights.config.read_text(encoding="utf-8"))
    stable = json.dumps({key: value for key, value in config.items() if key not in VOLATILE}, sort_keys=True)
    matrices = sorted(name for name, shape in weights.shapes().items() if len(shape.size) > 1)
    chosen = matrices[:: -(-len(matrices) // TENSORS)]
    return {
        "config": hashlib.sha256(stable.encode()).hexdigest(),
        "tensors": {name: _rows_hash(weights.files[name], name) for name in chosen},
    }


def differing(recorded: Mapping[str, Any], weights: Weights) -> str:
    """What of a base's weights differs from their recorded fingerprint, in words; "" if they are the same."""
    actual = fingerprint(weights)
    different = [] if actual["config"] == recorded.get("config") else ["config.json"]
    names = recorded["tensors"].keys() | actual["tensors"].keys()
    different += sorted(name for name in names if recorded["tensors"].get(name) != actual["tensors"].get(name))
    return f"{', '.join(different[:3])}{' and others' if len(different) > 3 else ''}"


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(step: Step, fields: Mapping[str, Fields]) -> Step:
    if not isinstance(step["step"], str):
        raise TypeError(f"{step['step']!r} is not the name of a step")
    optional = {name: kind for name, kind in OPTIONAL_FIELDS.get(step["step"], {}).items() if name in step}
    _check_fields(step, {**fields.get(step["step"], {}), **optional}, step["step"])
    for name in COUNTS if step["step"] == "train" else ():
        if not all(isinstance(count, int) for count in step.get(name, {}).values()):
            raise TypeError(f"{name} is {step[name]!r:.60}")
    base_fingerprint = step.get("base_fingerprint")
    if base_fingerprint is not None and not isinstance(base_fingerprint["tensors"], dict):
        raise TypeError(f"base_fingerprint is {base_fingerprint!r:.60}")
    return step


def _check_fields(values: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> None:
    for name, kind in fields.items():
        if not isinstance(values[name], dict if isinstance(kind, dict) else kind):
            raise TypeError(f"{name} of {where} is {values[name]!r:.60}")
        if isinstance(kind, dict):
            _check_fields(values[name], kind, f"{where}'s {name}")


def _rows_hash(file: Path, name: str) -> str:
    with safe_open(file, framework="pt") as tensors:
        rows = tensors.get_slice(name)[:ROWS].contiguous()
    header = f"{rows.dtype} {tuple(rows.shape)}"
    return hashlib.sha256(header.encode() + rows.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
