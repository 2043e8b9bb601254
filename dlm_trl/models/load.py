"""Load a base model, or a base with an adapter: configuration, tokenizer, weights.

    model, tokenizer = load_for_inference("smollm2-135m", "4bit")      # a base, or the folder of an adapter
    model, tokenizer = load_adapted("runs/notes", "float32")
    model = load_base("tiny")                                          # to train

A base has a name that `registry.ModelRef` takes. The configuration is fetched before any weights are downloaded.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
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
from dlm_trl.models.weights import PICKLED, hub_hint, no_safetensors
from dlm_trl.notes.errors import AdapterError, BaseModelError, ChatTemplateError
from dlm_trl.notes.extras import require_extra

Quantization = Literal["4bit", "8bit"]
_loaded: WeakValueDictionary[tuple[str, Quantization | None], torch.nn.Module] = WeakValueDictionary()
TENSORS = "adapter_model.safetensors"
# The files that a tokenizer is saved as, beside the weights.
TOKENIZER_FILES = (
    "chat_template.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)


def load_config(base_model: str) -> PretrainedConfig:
    """The base's configuration. It's a small file, so this is the cheap way to check that a base exists.

    Raises DlmError (BaseModelError).
    """
    location = ModelRef(base_model).resolve()
    try:
        return AutoConfig.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise _base_error(base_model, location, error) from error


def context_length(config: PretrainedConfig) -> int | None:
    """How many tokens the model can read at once; None for one without a limit, such as Bloom or a recurrent model."""
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length


def load_tokenizer(base_model: str, chat_template_path: str | None = None) -> PreTrainedTokenizerBase:
    """The base's tokenizer.

    chat_template_path: a Jinja file, or a folder with a tokenizer, whose chat template replaces the base's. Raises
    DlmError (BaseModelError, ChatTemplateError).
    """
    location = ModelRef(base_model).resolve()
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise _base_error(base_model, location, error) from error
    if chat_template_path is not None:
        tokenizer.chat_template = _read_chat_template(chat_template_path)
    return tokenizer


def load_base(
    base_model: str,
    dtype: str | torch.dtype = "auto",
    quantization: Quantization | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The base's weights in `dtype`, on the CPU unless they are quantised.

    dtype: "auto" keeps the stored dtype, "inference" is `precision.inference_dtype`. attn_implementation: None leaves
    the choice to transformers. Quantised weights (bitsandbytes: NF4 with double quantisation, or int8) are loaded onto
    this process's device, since they can't be moved later. Raises DlmError (BaseModelError, MissingExtraError).
    """
    location = ModelRef(base_model).resolve()
    dtype = inference_dtype(load_config(base_model)) if dtype == "inference" else dtype
    if (folder := Path(location)).is_dir() and not any(folder.glob("*.safetensors")):
        raise no_safetensors(folder)
    arguments: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation, "use_safetensors": True}
    if quantization is not None:
        arguments |= {"quantization_config": _quantization_config(quantization), "device_map": {"": _device()}}
    try:
        return AutoModelForCausalLM.from_pretrained(location, **arguments)
    # ImportError: the weights were quantised by a library that isn't installed; RuntimeError: shapes don't match.
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _base_error(base_model, location, error) from error


def load_adapted(
    adapter: str | os.PathLike[str], dtype: str | torch.dtype = "auto", quantization: Quantization | None = None
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The adapter in a folder, on the base that it records and in eval mode, and the tokenizer saved with it.

    The base is loaded as `load_base` does. The adapter gets the base's dtype: a float32 adapter on a 16-bit base would
    cast its inputs and outputs in every layer. Raises DlmError (AdapterError, BaseModelError, MissingExtraError).
    """
    folder = Path(adapter)
    name = adapter_base(folder)
    if not (folder / TENSORS).is_file():  # PEFT would load a pickle, or look for it on the Hub
        raise no_tensors(folder)
    model, tokenizer = load_base(name, dtype, quantization), adapter_tokenizer(folder)
    return _attach(model, folder, autocast_adapter_dtype=False).eval(), tokenizer


def attach_trainable(model: PreTrainedModel, adapter: str | os.PathLike[str]) -> PeftModel:
    """The base with the adapter in a folder, to train it further; in float32, as a new adapter is.

    Raises DlmError (AdapterError).
    """
    return _attach(model, Path(adapter), is_trainable=True)


def _attach(model: PreTrainedModel, folder: Path, **options: bool) -> PeftModel:
    try:
        return PeftModel.from_pretrained(model, str(folder), **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _adapter_error(folder, error) from error


def load_for_inference(
    source: str | Path, quantization: Quantization | None = None
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """A model to generate or score with, and its tokenizer.

    source: a base's name, or the folder of an adapter. The model is in eval mode, in `precision.inference_dtype` or
    quantised, and on this process's device. A model that is still in use is returned again instead of loaded twice,
    since a teacher and its judge are often the same model: don't modify it. Raises DlmError as `load_base` and
    `load_adapted` do.
    """
    folder = Path(source).expanduser()
    is_adapter = isinstance(source, Path) or (folder / "adapter_config.json").is_file()
    location = str(folder.resolve()) if is_adapter else ModelRef(str(source)).resolve()
    model = _loaded.get((location, quantization))
    if model is None:
        if is_adapter:
            model, _ = load_adapted(folder, "inference", quantization)
        else:
            model = load_base(str(source), "inference", quantization).eval()
        if not quantization:
            try:
                model = model.to(PartialState().device)
            except RuntimeError as error:
                raise _base_error(str(source), location, error) from error
        _loaded[location, quantization] = model
    return model, adapter_tokenizer(folder) if is_adapter else load_tokenizer(str(source))


def adapter_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved with an adapter. Raises DlmError (AdapterError)."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise _adapter_error(folder, error) from error


def no_tensors(folder: Path) -> AdapterError:
    """The error for an adapter without weights, or with pickled ones."""
    return AdapterError(f"{TENSORS} is missing.", hint=f"Adapters in .bin files {PICKLED.format('peft')}", path=folder)


def adapter_base(folder: Path) -> str:
    """The name of the base that an adapter was trained on. Raises DlmError (AdapterError, LineageError)."""
    if not (folder / "adapter_config.json").is_file():
        raise AdapterError("This folder doesn't contain an adapter: adapter_config.json is missing.", path=folder)
    # The lineage comes first: PEFT may record the folder that the base was loaded from, which differs by machine.
    training = lineage.last(lineage.read(folder), "train")
    try:
        record = training["base"] if training else PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        return ModelRef.from_record(record).name
    except (OSError, ValueError, TypeError) as error:  # not JSON, not an object, or without a base
        raise _adapter_error(folder, error) from error


def adapter_quantization(folder: Path) -> Quantization | None:
    """How the base was quantised when the adapter was trained. Raises DlmError (LineageError)."""
    training = lineage.last(lineage.read(folder), "train")
    return training["quantization"] if training else None


def _read_chat_template(path: str) -> str:
    file = Path(path)
    with suppress(OSError, ValueError):  # a file that isn't UTF-8, a folder without a tokenizer
        if file.is_file():
            return file.read_text(encoding="utf-8")
        if file.is_dir() and (template := AutoTokenizer.from_pretrained(file).chat_template):
            return str(template)
    raise ChatTemplateError(
        f"There is no chat template at {path!r}.",
        hint="Give a Jinja file, or a folder with a tokenizer that has a chat template.",
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


def _base_error(base_model: str, location: str, error: Exception) -> BaseModelError:
    reason = str(error).splitlines()[0]
    hint = hub_hint(error)
    if isinstance(error, ImportError):
        hint = "Install what it needs, or choose another base_model."
    elif isinstance(error, RuntimeError):
        hint = "Check that its files belong together and that it fits into memory."
    return BaseModelError(f"Can't load the base model {base_model!r} from {location}: {reason.rstrip('.')}.", hint=hint)


def _adapter_error(folder: Path, error: Exception) -> AdapterError:
    return AdapterError(
        f"Can't load the adapter in this folder: {str(error).splitlines()[0].rstrip('.')}.",
        path=folder,
        hint="Copy it again, or train again.",
    )
