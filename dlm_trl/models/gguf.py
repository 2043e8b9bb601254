"""GGUF files as bases or local teachers: converted once to a folder that transformers and PEFT can train from.

    folder = converted(Path("model.gguf"))        # $DLM_HOME/models/model-1f0c…: config, safetensors, tokenizer
    conversion(folder)                            # "dequantised from Q4_K"

llama.cpp's quantised blocks can't be trained, so they are dequantised and stored in 16 bits. The result differs from
the model that was quantised: what 4 bits lost stays lost, which is why reports show the conversion.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_trl.notes import store
from dlm_trl.notes.errors import BaseModelError
from dlm_trl.notes.files import locked
from dlm_trl.notes.terminal import say

if TYPE_CHECKING:
    from gguf import GGUFReader

SUFFIX = ".gguf"
FACTS = "gguf.json"  # in the converted folder: the source file's name and type, and the hashes of source and weights
WEIGHTS = "model.safetensors"
UNQUANTISED = ("F32", "F16", "BF16")  # tensor types
LOCK_TIMEOUT = 3600.0  # seconds to wait for another process that converts the same file


def converted(file: Path, sha256: str | None = None) -> Path:
    """The folder with the model of a GGUF file, converted the first time.

    sha256: the expected hash of the file. The folder only appears once it is complete, and each process checks the hash
    of its weights before first use. Raises DlmError (BaseModelError) for a file that is damaged, is one part of
    several, or has an architecture that transformers can't train.
    """
    file = file.expanduser().resolve()
    try:
        status = file.stat()
        return _converted(file, status.st_size, status.st_mtime_ns, sha256)
    except OSError as error:
        raise BaseModelError(
            f"Can't read the GGUF file: {error.strerror}.", hint="Check the path.", path=file
        ) from error


def conversion(folder: Path) -> str | None:
    """How the model in a folder was converted, such as "dequantised from Q4_1"; None if not from GGUF."""
    facts = folder / FACTS
    if not facts.is_file():
        return None
    kind = json.loads(facts.read_text(encoding="utf-8"))["type"]
    return f"read from {kind}" if kind in UNQUANTISED else f"dequantised from {kind}"


@cache
def _converted(file: Path, size: int, modified: int, sha256: str | None) -> Path:
    """size and modified are cache keys: a file that changed is hashed again."""
    actual = _hash(file)
    if sha256 is not None and actual != sha256:
        raise BaseModelError(
            f"The file is damaged: its SHA-256 is {actual[:16]}…, not {sha256[:16]}….",
            hint="Install it again.",
            path=file,
        )
    home = store.models_dir()
    folder = home / f"{file.stem}-{actual[:12]}"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BaseModelError(
            f"Can't create the folder: {error.strerror}.", hint="Set DLM_HOME to another folder.", path=home
        ) from error
    if not _is_complete(folder):
        with locked(folder, LOCK_TIMEOUT):
            if not _is_complete(folder):
                # DeepSpeed, which transformers imports here, logs to what stdout is then; stdout is for results.
                with redirect_stdout(sys.stderr):
                    _convert(file, actual, folder)
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether the folder contains the weights that were written."""
    try:
        facts: dict[str, str] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return _hash(folder / WEIGHTS) == facts["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(file: Path, sha256: str, folder: Path) -> None:
    kind = _check(file)
    scratch = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # from a killed process
    say(f"converting {file.name} to {folder} (only this once)", err=True)
    try:
        scratch.mkdir()
        _save(file, kind, scratch)
        facts = {"file": file.name, "sha256": sha256, "type": kind, "weights": _hash(scratch / WEIGHTS)}
        (scratch / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        os.rename(scratch, folder)
    except OSError as error:
        raise BaseModelError(
            f"Can't write the converted model: {error.strerror or error}.", hint=_ROOM, path=folder
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check(file: Path) -> str:
    """The tensor type of most weights, such as "Q4_1". Reads only the header.

    Raises DlmError (BaseModelError) for a file that can't be trained.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise BaseModelError(f"Not a complete GGUF file: {error}.", hint="Download it again.", path=file) from error
    if int(_field(reader, "split.count") or 1) > 1:
        raise BaseModelError("This is one part of several.", hint="Merge them: llama-gguf-split --merge.", path=file)
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    architecture = _field(reader, "general.architecture")
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise BaseModelError(
            f"transformers can't read the architecture {architecture!r} from GGUF.", hint=_OTHER, path=file
        )
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    return weights.most_common(1)[0][0]


def _save(file: Path, kind: str, folder: Path) -> None:
    """Save dequantised weights, configuration and tokenizer in transformers' format."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    dtype = {"F32": torch.float32, "F16": torch.float16}.get(kind, torch.bfloat16)
    try:
        config = AutoConfig.from_pretrained(**place)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise BaseModelError(f"{config.model_type!r} is not a causal language model.", hint=_OTHER, path=file)
        dense = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=dtype, quantization_config=dense)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    except (ValueError, OSError, KeyError, RuntimeError, NotImplementedError, ImportError) as error:
        raise BaseModelError(
            f"transformers can't load the file: {str(error).splitlines()[0].rstrip('.')}.", hint=_OTHER, path=file
        ) from error
    if damaged := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise BaseModelError(
            f"{len(damaged)} of its tensors have values that aren't numbers, {damaged[0]} for one: it is damaged.",
            hint="Get it again. A file that came in parts has to be joined in the order of their numbers.",
            path=file,
        )
    model.save_pretrained(folder, max_shard_size="1TB")
    if context := getattr(config.get_text_config(), "max_position_embeddings", None):
        tokenizer.model_max_length = context
    tokenizer.save_pretrained(folder)


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_OTHER = "Use the model's safetensors instead, as hf:org/name or a folder."
_ROOM = "Free some disk space, or set DLM_HOME to a folder on another disk."
