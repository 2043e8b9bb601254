"""Names of base models: `resolve("smollm2-135m")` gives what `from_pretrained` takes.

A name is a key of the table below, `tiny` (the embedded model), `hf:org/name`, or a folder that holds a model.
"""

from pathlib import Path

from rapidfuzz import fuzz, process

from dlm_trl import tiny
from dlm_trl.notes import DlmError

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

    Raises DlmError (BaseModelError) for a name that is none of these; whether a Hub id exists is found out on loading.
    """
    if base_model == "tiny":
        return str(tiny.path())
    if base_model in HUB_IDS:
        return HUB_IDS[base_model]
    if base_model in MEDIA_IDS:
        raise _error(f"{base_model!r} reads pictures or sound; text training needs a causal language model.", "")
    if base_model.startswith("hf:"):
        return base_model.removeprefix("hf:")
    folder = Path(base_model).expanduser()
    if (folder / "config.json").is_file():
        return str(folder.resolve())
    if folder.is_dir():
        raise _error(f"The folder {base_model!r} holds no model: config.json is missing.", "")
    raise _error(f"There is no base model {base_model!r}.", _suggestion(base_model))


def recorded_name(base_model: str) -> str:
    """The name that an adapter writes down as its base, so that it is found again on any machine.

    `tiny` stays `tiny` (the package's folder differs from machine to machine); others are what `resolve` gives.
    """
    return base_model if base_model == "tiny" else resolve(base_model)


def hub_id(recorded: str) -> str | None:
    """The id of a base on the Hub, of the names that `recorded_name` gives; None for `tiny` and for a local folder."""
    return None if recorded == "tiny" or Path(recorded).is_absolute() else recorded


def _suggestion(name: str) -> str:
    if "/" in name:
        return f"For a model of the Hub write hf:{name}; a local folder must exist."
    near = process.extractOne(name, ["tiny", *HUB_IDS], scorer=fuzz.ratio, score_cutoff=60)
    start = f"Did you mean {near[0]!r}? " if near else ""
    return f"{start}It may be a key such as smollm2-135m, tiny, hf:org/name, or a folder."


def _error(message: str, hint: str) -> DlmError:
    return DlmError(kind="BaseModelError", message=message, hint=hint or "Choose another base_model.")
