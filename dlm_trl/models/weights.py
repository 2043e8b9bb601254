"""Find a base model's tensors and read them one at a time, without loading the model.

weights = find_weights("smollm2-135m")
weights.shapes()["model.norm.weight"]      # torch.Size and torch.dtype, from the files' headers
weights.read("model.norm.weight")          # only this tensor is loaded into memory
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError, safe_open

from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.errors import BaseModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Repositories often contain the weights a second time (original/, consolidated.safetensors, .bin), not downloaded here.
HUB_FILES = ["*.json", "*.jinja", "tokenizer*", "vocab.*", "merges.txt", SINGLE, "model-*.safetensors"]
PICKLED = (  # after what is pickled; with the library that loads it
    "are not supported, because they are pickles, which can run code. If you trust the file, convert it: load it with "
    "{} and call save_pretrained, which writes safetensors."
)
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
    """Size and dtype of one tensor, from a file's header."""

    size: torch.Size
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return int(self.size.numel() * self.dtype.itemsize)


@dataclass(frozen=True)
class Weights:
    """A model on disk.

    config: its config.json, in the folder with tokenizer and generation_config. files: the safetensors file of each
    tensor, sorted by file. revision: the commit on the Hub, None for a local folder.
    """

    config: Path
    files: dict[str, Path]
    revision: str | None

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.config.parent

    def read(self, name: str) -> torch.Tensor:
        """One tensor on the CPU, in its stored dtype. It is memory-mapped: don't write to it.

        Raises DlmError (BaseModelError).
        """
        file = self.files[name]
        try:
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _damaged(file, error) from error

    def shapes(self) -> dict[str, Shape]:
        """Size and dtype of every tensor, from the headers.

        Raises DlmError (BaseModelError) for a file that is incomplete or lacks a tensor.
        """
        shapes: dict[str, Shape] = {}
        for file in dict.fromkeys(self.files.values()):
            names = [name for name, where in self.files.items() if where == file]
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in names:
                        view = opened.get_slice(name)
                        shapes[name] = Shape(torch.Size(view.get_shape()), DTYPES[view.get_dtype()])
            except (OSError, SafetensorError) as error:
                raise _damaged(file, error) from error
            except KeyError as error:
                raise BaseModelError(
                    f"The file has a tensor of the unsupported type {error}.", hint="Convert it to BF16.", path=file
                ) from error
        return shapes


def find_weights(base_model: str, revision: str | None = None) -> Weights:
    """The files of a base's tensors; a base on the Hub is downloaded (safetensors only) or taken from the cache.

    base_model: a name that `registry.ModelRef` takes. revision: a branch, tag or commit on the Hub. Raises DlmError
    (BaseModelError) for a base that can't be found, weights that aren't safetensors, and missing shards.
    """
    location = ModelRef(base_model).resolve()
    folder = Path(location)
    commit = None
    if folder.is_absolute() and not folder.is_dir():
        raise BaseModelError("The base model's folder doesn't exist.", hint="Name the base: --base.", path=folder)
    if not folder.is_dir():
        folder = _download(base_model, location, revision)
        commit = folder.name
    if not (folder / "config.json").is_file():
        raise BaseModelError("config.json is missing.", path=folder)
    return Weights(folder / "config.json", _files(folder), commit)


def hub_hint(error: Exception) -> str:
    """What to do about a model that can't be had from the Hub. error: of huggingface_hub, or of transformers for it."""
    cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(cause, GatedRepoError):
        return "Accept its terms on its page on the Hub, and log in: hf auth login, or set HF_TOKEN."
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403, 404):
        return "Check the name. For a private model, log in: hf auth login, or set HF_TOKEN."
    return "Check the name and the network, or download the model and give its folder."


def _download(base_model: str, location: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(location, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BaseModelError(
            f"Can't get the base model {base_model!r} from {location}: {reason}",
            hint=hub_hint(error),
        ) from error


def _files(folder: Path) -> dict[str, Path]:
    if (folder / SINGLE).is_file():  # a single file takes precedence, as in transformers
        try:
            with safe_open(folder / SINGLE, framework="pt") as opened:
                return dict.fromkeys(opened.keys(), folder / SINGLE)
        except (OSError, SafetensorError) as error:
            raise _damaged(folder / SINGLE, error) from error
    if not (folder / INDEX).is_file():
        raise no_safetensors(folder)
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = {name: folder / place for name, place in sorted(places.items(), key=lambda item: item[1])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError("Not an index of safetensors files.", path=folder / INDEX) from error
    if missing := sorted({file.name for file in files.values() if not file.is_file()}):
        raise BaseModelError(
            f"Shards are missing: {', '.join(missing)}.", hint="Download the model again.", path=folder
        )
    return files


def no_safetensors(folder: Path) -> BaseModelError:
    """The error for a model's folder without weights, or with pickled ones."""
    return BaseModelError(
        f"No weights in this folder: neither {SINGLE} nor {INDEX}.",
        hint=f"Weights in .bin files {PICKLED.format('transformers')}",
        path=folder,
    )


def _damaged(file: Path, error: Exception) -> BaseModelError:
    return BaseModelError(
        f"Not a complete safetensors file: {error}.", hint="Download or save the model again.", path=file
    )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite. Minimum and maximum tell, without a mask as large as the tensor."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def first_not_finite(file: Path) -> str | None:
    """The name of the first tensor of a safetensors file with a NaN or an infinity, or None.

    Raises SafetensorError and OSError for a damaged file.
    """
    with safe_open(file, framework="pt") as tensors:
        return next((name for name in tensors.keys() if not is_finite(tensors.get_tensor(name))), None)  # noqa: SIM118
