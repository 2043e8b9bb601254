"""A GGUF file as a base or a local teacher: converted once to a folder that transformers and PEFT train from.

    folder = converted(Path("model.gguf"))        # $DLM_HOME/models/model-1f0c…: config, safetensors, tokenizer
    conversion(folder)                            # "dequantised from Q4_K"

llama.cpp's format keeps blocks of quantised weights, which nothing here can train. They are dequantised and stored in
16 bits. That is not the model that was quantised: what four bits lost stays lost, and whoever uses it is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_trl.notes import store
from dlm_trl.notes.errors import BaseModelError
from dlm_trl.notes.files import locked

if TYPE_CHECKING:
    from gguf import GGUFReader

SUFFIX = ".gguf"
FACTS = "gguf.json"  # in the converted folder: which file it was made from, and the hashes of both
WEIGHTS = "model.safetensors"
PLAIN = ("F32", "F16", "BF16")  # types of tensors that lost nothing
PATIENCE = 3600.0  # seconds that a process waits for another one that converts the same file


def converted(file: Path, sha256: str | None = None) -> Path:
    """The folder of the model in this GGUF file, which is converted where that was not done before.

    sha256: what the file's bytes must hash to. The folder appears when it is whole, and its weights are hashed again
    whenever a process first uses them. Raises DlmError (BaseModelError) for a file that is damaged, that is one part of
    several, or whose architecture transformers cannot train.
    """
    file = file.expanduser().resolve()
    try:
        status = file.stat()
        return _converted(file, status.st_size, status.st_mtime_ns, sha256)
    except OSError as error:
        raise BaseModelError(
            f"The GGUF file cannot be read: {error.strerror}.", hint="Check the path.", path=file
        ) from error


def conversion(folder: Path) -> str | None:
    """What a model of this folder was made from, "dequantised from Q4_1"; None where it was not a GGUF file."""
    facts = folder / FACTS
    if not facts.is_file():
        return None
    kind = json.loads(facts.read_text(encoding="utf-8"))["type"]
    return f"read from {kind}" if kind in PLAIN else f"dequantised from {kind}"


@cache
def _converted(file: Path, size: int, modified: int, sha256: str | None) -> Path:
    """Size and time of the last change are there for the cache: a file that changed is hashed again."""
    found = _hash(file)
    if sha256 is not None and found != sha256:
        raise BaseModelError(
            f"Its SHA-256 is {found[:16]}…, not {sha256[:16]}…: it is damaged.", hint="Install it again.", path=file
        )
    home = store.models_dir()
    folder = home / f"{file.stem}-{found[:12]}"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BaseModelError(
            f"The folder cannot be made: {error.strerror}.", hint="Set DLM_HOME to another one.", path=home
        ) from error
    if not _is_whole(folder):
        with locked(folder, PATIENCE):
            if not _is_whole(folder):
                _convert(file, found, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the weights in this folder are those that were written."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return _hash(folder / WEIGHTS) == facts["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(file: Path, sha256: str, folder: Path) -> None:
    kind = _check(file)
    scratch = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # left behind by a process that was killed
    print(f"converting {file.name}, once, to {folder}", file=sys.stderr)
    try:
        scratch.mkdir()
        _save(file, kind, scratch)
        facts = {"file": file.name, "sha256": sha256, "type": kind, "weights": _hash(scratch / WEIGHTS)}
        (scratch / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # one that was damaged since
        os.rename(scratch, folder)
    except OSError as error:
        raise BaseModelError(
            f"The converted model cannot be written: {error.strerror or error}.", hint=_ROOM, path=folder
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check(file: Path) -> str:
    """The type that most of the weights have, such as "Q4_1", from the header alone. Raises DlmError (BaseModelError)
    for what cannot be trained.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise BaseModelError(f"It is not a whole GGUF file: {error}.", hint="Download it again.", path=file) from error
    if int(_field(reader, "split.count") or 1) > 1:
        raise BaseModelError("It is one part of several.", hint="Join them first: llama-gguf-split --merge.", path=file)
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    architecture = _field(reader, "general.architecture")
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise BaseModelError(
            f"transformers cannot read the architecture {architecture!r} from GGUF.", hint=_OTHER, path=file
        )
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    return weights.most_common(1)[0][0]


def _save(file: Path, kind: str, folder: Path) -> None:
    """Dequantised weights, configuration and tokenizer, as transformers saves a model of its own."""
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
            f"transformers cannot load it: {str(error).splitlines()[0].rstrip('.')}.", hint=_OTHER, path=file
        ) from error
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


_OTHER = "Take the model's safetensors instead, as hf:org/name or a folder."
_ROOM = "Free some space, or set DLM_HOME to a folder on another disk."
