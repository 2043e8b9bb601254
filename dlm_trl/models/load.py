"""Weights, tokenizer and configuration of a base model, and of a base with an adapter on it.

    tokenizer = load_tokenizer("tiny")
    model = load_base("smollm2-135m", "inference", quantization="4bit")
    model, tokenizer = load_adapted("runs/notes")

Names are those of `registry.resolve`. Nothing here downloads weights before the configuration was found.
"""

import os
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dlm_trl.models import lineage
from dlm_trl.models.precision import inference_dtype
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.errors import AdapterError, BaseModelError, ChatTemplateError
from dlm_trl.notes.extras import require_extra

Quantization = Literal["4bit", "8bit"]
_held: WeakValueDictionary[tuple[str, Quantization | None], torch.nn.Module] = WeakValueDictionary()
# What a tokenizer is saved as, beside the weights.
TOKENIZER_FILES = (
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)


def load_config(base_model: str) -> PretrainedConfig:
    """The base's configuration: a small file, so this is the cheap way to find out whether a base can be had.

    Raises DlmError (BaseModelError) if it cannot.
    """
    reference = ModelRef(base_model).resolve()
    try:
        return AutoConfig.from_pretrained(reference)
    except (OSError, ValueError) as error:
        raise _not_found(base_model, reference, error) from error


def context_length(config: PretrainedConfig) -> int | None:
    """How many tokens a model can read at once; None where nothing limits it: Bloom, recurrent models."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def load_tokenizer(base_model: str, chat_template_path: str | None = None) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with the chat template of a Jinja file or of another model's folder where one is given.

    Raises DlmError (BaseModelError, ChatTemplateError).
    """
    reference = ModelRef(base_model).resolve()
    try:
        tokenizer = AutoTokenizer.from_pretrained(reference)
    except (OSError, ValueError) as error:
        raise _not_found(base_model, reference, error) from error
    if chat_template_path is not None:
        tokenizer.chat_template = _chat_template(chat_template_path)
    return tokenizer


def load_base(
    base_model: str,
    dtype: str | torch.dtype = "auto",
    quantization: Quantization | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The base's weights in `dtype`, on the CPU unless they are quantised.

    dtype "auto": as they are stored; "inference": as `precision.inference_dtype` has it, for a model that is asked.
    attn_implementation None is what transformers chooses. Quantised weights (NF4 with double quantisation, or int8; by
    bitsandbytes) go to this process's device at once, since they cannot be moved there afterwards. Raises DlmError
    (BaseModelError, MissingExtraError).
    """
    reference = ModelRef(base_model).resolve()
    dtype = inference_dtype(load_config(base_model)) if dtype == "inference" else dtype
    arguments = {"dtype": dtype, "attn_implementation": attn_implementation}
    if quantization is not None:
        arguments |= {"quantization_config": _quantization_config(quantization), "device_map": {"": _device()}}
    try:
        return AutoModelForCausalLM.from_pretrained(reference, **arguments)
    # Weights quantised by a library that is not there are an ImportError, those of other sizes a RuntimeError.
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _not_found(base_model, reference, error) from error


def load_adapted(
    adapter: str | os.PathLike[str], dtype: str | torch.dtype = "auto", quantization: Quantization | None = None
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """A base with the adapter of a folder on it, and the tokenizer that was saved beside the adapter; in eval mode.

    The base is the one that the adapter records, loaded as `load_base` does; the adapter has the base's dtype, for one
    of float32 on a 16-bit base converts its inputs and outputs in each layer. Raises DlmError (AdapterError,
    BaseModelError, MissingExtraError).
    """
    folder = Path(adapter)
    name = adapter_base(folder)
    if not any(folder.glob("adapter_model.*")):  # PEFT would look for them on the Hub
        raise _damaged(folder, FileNotFoundError("adapter_model.safetensors is missing"))
    model, tokenizer = load_base(name, dtype, quantization), adapter_tokenizer(folder)
    try:
        return PeftModel.from_pretrained(model, str(folder), autocast_adapter_dtype=False).eval(), tokenizer
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from error


def load_to_ask(source: str | Path, quantization: Quantization | None = None) -> PreTrainedModel | PeftModel:
    """The weights of a base, by its name, or of an adapter on its base, by its folder, on this process's device.

    They are in the dtype of `precision.inference_dtype`, or quantised: an adapter's base as it was in training unless
    another way is given. Whose weights somebody holds already are not loaded again, for a teacher and its judge are
    often one model. Raises DlmError as load_base and load_adapted do.
    """
    if isinstance(source, Path):
        quantization = quantization or adapter_quantization(source)
    where = str(source.resolve()) if isinstance(source, Path) else ModelRef(source).resolve()
    model = _held.get((where, quantization))
    if model is None:
        if isinstance(source, Path):
            model, _ = load_adapted(source, "inference", quantization)
        else:
            model = load_base(source, "inference", quantization)
        if not quantization:
            try:
                model = model.to(PartialState().device)
            except RuntimeError as error:
                raise _not_found(str(source), where, error) from error
        _held[where, quantization] = model
    return model


def adapter_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside an adapter. Raises DlmError (AdapterError)."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def adapter_base(folder: Path) -> str:
    """The base of the adapter in this folder, named as a document would.

    Raises DlmError (AdapterError, LineageError).
    """
    if not (folder / "adapter_config.json").is_file():
        raise AdapterError("This folder holds no adapter: adapter_config.json is missing.", path=folder)
    # PEFT records where the base was loaded from, which for the embedded one is a folder of this machine alone.
    trained = lineage.last(lineage.read(folder), "train")
    try:
        record = trained["base"] if trained else PeftConfig.from_pretrained(folder).base_model_name_or_path
        return ModelRef.from_record(record).name
    except (OSError, ValueError, TypeError) as error:  # no JSON, no object, or no base in it
        raise _damaged(folder, error) from error


def adapter_quantization(folder: Path) -> Quantization | None:
    """How the base was quantised when the adapter of this folder was trained. Raises DlmError (LineageError)."""
    trained = lineage.last(lineage.read(folder), "train")
    return trained["quantization"] if trained else None


def _chat_template(path: str) -> str:
    file = Path(path)
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if file.is_dir() and (template := AutoTokenizer.from_pretrained(file).chat_template):
        return template
    raise ChatTemplateError(
        f"There is no chat template at {path!r}.",
        hint="Give a Jinja file, or the folder of a tokenizer that has a chat template.",
    )


def _quantization_config(quantization: Quantization) -> BitsAndBytesConfig:
    require_extra("bnb", f"Loading in {quantization}")
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _device() -> str:
    return f"cuda:{PartialState().local_process_index}" if torch.cuda.is_available() else "cpu"


def _not_found(base_model: str, reference: str, error: Exception) -> BaseModelError:
    reason = str(error).splitlines()[0]
    hints = {
        ImportError: "Install what it needs, or choose another base_model.",
        RuntimeError: "Check that its files belong together and that the memory is enough.",
    }
    return BaseModelError(
        f"The base model {base_model!r} cannot be loaded from {reference}: {reason.rstrip('.')}.",
        hint=next(
            (hint for kind, hint in hints.items() if isinstance(error, kind)),
            "Check the name and the network, or download it once and give the folder.",
        ),
    )


def _damaged(folder: Path, error: Exception) -> AdapterError:
    return AdapterError(
        f"The adapter in this folder cannot be loaded: {str(error).splitlines()[0].rstrip('.')}.",
        path=folder,
        hint="Copy it once more, or train again.",
    )
