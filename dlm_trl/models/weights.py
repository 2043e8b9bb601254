"""Where a base model's tensors lie, and one of them at a time: nothing here loads a model.

weights = find_weights("smollm2-135m")
weights.shapes()["model.norm.weight"]      # torch.Size, torch.dtype: from the files' headers
weights.read("model.norm.weight")          # this tensor, and no other, comes into memory
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.errors import BaseModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# A repository may hold the same weights once more (original/, consolidated.safetensors, .bin): those are left there.
HUB_FILES = ["*.json", "*.jinja", "tokenizer*", "vocab.*", "merges.txt", SINGLE, "model-*.safetensors"]
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Shape(NamedTuple):
    """What a file's header says of one tensor."""

    size: torch.Size
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.size.numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Weights:
    """A model on disk: `files` says in which safetensors file each tensor lies, in the order of the files.

    config is its config.json, beside which tokenizer and generation_config lie; revision the commit of the Hub that
    it came from, None for a local folder.
    """

    config: Path
    files: dict[str, Path]
    revision: str | None

    @property
    def folder(self) -> Path:
        """The folder that the model lies in."""
        return self.config.parent

    def read(self, name: str) -> torch.Tensor:
        """One tensor on the CPU, in the dtype that it is stored in; its memory is the file's, mapped: do not write
        to it. Raises DlmError (BaseModelError).
        """
        file = self.files[name]
        try:
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _damaged(file, error) from error

    def shapes(self) -> dict[str, Shape]:
        """Size and dtype of every tensor, from the headers alone. Raises DlmError (BaseModelError) for a file that is
        not whole or lacks a tensor.
        """
        found: dict[str, Shape] = {}
        for file in dict.fromkeys(self.files.values()):
            names = [name for name, where in self.files.items() if where == file]
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in names:
                        view = opened.get_slice(name)
                        found[name] = Shape(torch.Size(view.get_shape()), DTYPES[view.get_dtype()])
            except (OSError, SafetensorError) as error:
                raise _damaged(file, error) from error
            except KeyError as error:
                raise BaseModelError(
                    f"It holds a tensor of type {error}, which is not known here.", path=file
                ) from error
        return found


def find_weights(base_model: str, revision: str | None = None) -> Weights:
    """Where the tensors of a base lie; a base of the Hub is downloaded (its safetensors only) or taken from the cache.

    base_model is a name as a document writes it, revision a branch, tag or commit of the Hub. Raises DlmError
    (BaseModelError) for a base that cannot be had, for weights that are not safetensors, and naming each missing shard.
    """
    reference = ModelRef(base_model).resolve()
    folder = Path(reference)
    commit = None
    if folder.is_absolute() and not folder.is_dir():
        raise BaseModelError(
            "The folder of the base model is not here.", hint="Name the base, with --base.", path=folder
        )
    if not folder.is_dir():
        folder = _download(base_model, reference, revision)
        commit = folder.name
    if not (folder / "config.json").is_file():
        raise BaseModelError("config.json is missing.", path=folder)
    return Weights(folder / "config.json", _files(folder), commit)


def _download(base_model: str, reference: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(reference, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BaseModelError(
            f"The base model {base_model!r} cannot be had from {reference}: {reason}",
            hint="Check the name and the network, or download it once and give the folder.",
        ) from error


def _files(folder: Path) -> dict[str, Path]:
    if (folder / SINGLE).is_file():  # as transformers does: a single file is asked for first
        try:
            with safe_open(folder / SINGLE, framework="pt") as opened:
                return dict.fromkeys(opened.keys(), folder / SINGLE)
        except (OSError, SafetensorError) as error:
            raise _damaged(folder / SINGLE, error) from error
    if not (folder / INDEX).is_file():
        raise BaseModelError(
            f"There are no weights here: neither {SINGLE} nor {INDEX}.",
            hint="Weights in .bin files are not read; load the model once with transformers and save_pretrained it.",
            path=folder,
        )
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = {name: folder / place for name, place in sorted(places.items(), key=lambda item: item[1])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError("This is no index of safetensors files.", path=folder / INDEX) from error
    if missing := sorted({file.name for file in files.values() if not file.is_file()}):
        raise BaseModelError(
            f"Shards are missing: {', '.join(missing)}.", hint="Download the model again.", path=folder
        )
    return files


def _damaged(file: Path, error: Exception) -> BaseModelError:
    return BaseModelError(
        f"It is not a whole safetensors file: {error}.", hint="Download or save the model again.", path=file
    )
