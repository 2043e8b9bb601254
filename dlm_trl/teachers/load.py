"""The name that a user gives becomes a teacher: `teacher = load_teacher("hf:tiny", document)`; `survey` opens nothing.

`self` is the document's trained adapter (`self#NAME` the one of this name), `hf:…` a model from the Hub or a folder;
`openai:…`, `anthropic:…` and `vllm-server:…` are servers. Torch or a server's SDK is loaded by opening a teacher that
needs it, not before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlm_trl.notes import Document
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.store import trained_adapter
from dlm_trl.teachers.protocol import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dlm_trl.models.load import Quantization
    from dlm_trl.teachers.local import LocalTeacher

FORMS = (
    "self (the document's trained adapter; self#NAME for one of several), hf:<id or folder>, hf:tiny (the embedded "
    "model), openai:<model>, anthropic:<model>, vllm-server:<url>[,<url>…][#<model>]"
)

_OTHERWISE = "take another teacher: --teacher hf:…."

# What decides the replies of a model in a folder.
_MODEL_FILES = (
    "*.safetensors", "*model*.bin", "*config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt",
    "chat_template*",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Survey:
    """`TeacherFacts` of a teacher that is not opened; the tokenizer is None for a server's."""

    reference: str
    revision: str
    tokenizer: PreTrainedTokenizerBase | None = None
    context: int | None = None

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """As `TeacherFacts.count_tokens`. Raises DlmError (ChatTemplateError)."""
        if self.tokenizer is None:
            return None
        from dlm_trl.models.chat import encode

        return len(encode(self.tokenizer, messages, self.reference))


def survey(reference: str, document: Document, quantization: Quantization | None = None) -> Survey:
    """What can be known of the teacher that the user named without its weights and without a request.

    A vLLM server's model is not known before it is asked, unless it is named: its revision is empty then. Raises
    DlmError as load_teacher does, but for what only weights and servers tell.
    """
    kind, _, name = reference.partition(":")
    if is_own(reference):
        return _survey_adapter(reference, document, quantization)
    if not name.strip():
        raise _misuse(reference)
    if kind == "hf":
        return _survey_base(name, quantization)
    if kind in ("openai", "anthropic"):
        return Survey(reference, name)
    if kind == "vllm-server":
        return Survey(reference, _fleet(reference)[1])
    raise _misuse(reference)


def load_teacher(
    reference: str, document: Document, quantization: Quantization | None = None, concurrency: int = 16
) -> Teacher:
    """The teacher that the user named, ready to be asked.

    quantization is for local models, that of its training for the document's adapter unless another is given; others
    are in the dtype of `precision.inference_dtype`. concurrency bounds the requests in flight to each server. Raises
    DlmError: UsageError for a name of no known form, AdapterError for `self` without an adapter, StoreError,
    BaseModelError, ChatTemplateError, MissingExtraError, and TeacherError for a server that cannot be asked.
    """
    known = survey(reference, document, quantization)
    kind, _, name = reference.partition(":")
    if kind == "openai":
        from dlm_trl.teachers.openai import OpenAITeacher

        return OpenAITeacher(name, concurrency=concurrency)
    if kind == "anthropic":
        from dlm_trl.teachers.anthropic import AnthropicTeacher

        return AnthropicTeacher(name, concurrency=concurrency)
    if kind == "vllm-server":
        from dlm_trl.teachers.vllm import VllmTeacher

        urls, model = _fleet(reference)
        return VllmTeacher(urls, model or None, concurrency=concurrency)
    return _local(known, document, quantization)


def fingerprint(folder: Path) -> str:
    """16 hex digits that change with the weights, tokenizer or settings of the model or adapter in a folder.

    All bytes are read, for weights of other values have the same names and sizes: about a second per gigabyte.
    """
    files = {file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\n{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def is_own(reference: str) -> bool:
    """Whether this names an adapter of the document: `self`, or `self#NAME`."""
    return reference == "self" or reference.startswith("self#")


def own_adapter(reference: str, document: Document, otherwise: str) -> Path:
    """The folder of the adapter that `self` or `self#NAME` stands for. Raises DlmError as `trained_adapter` does."""
    _, _, name = reference.partition("#")
    return trained_adapter(document, name or None, "Name one: self#NAME.", otherwise)


def _survey_adapter(reference: str, document: Document, quantization: Quantization | None) -> Survey:
    from dlm_trl.models.chat import require_template
    from dlm_trl.models.load import (
        adapter_base,
        adapter_quantization,
        adapter_tokenizer,
        context_length,
        load_config,
    )

    folder = own_adapter(reference, document, _OTHERWISE)
    context, tokenizer = context_length(load_config(adapter_base(folder))), adapter_tokenizer(folder)
    hint = "Train on a base_model with one, or take another --teacher."
    require_template(tokenizer, f"The teacher {reference}", hint)
    quantization = quantization or adapter_quantization(folder)
    revision = f"{folder.name}-{fingerprint(folder)}{f'-{quantization}' if quantization else ''}"
    return Survey(reference, revision, tokenizer, context)


def _survey_base(name: str, quantization: Quantization | None) -> Survey:
    from dlm_trl.models.chat import require_template
    from dlm_trl.models.load import context_length, load_config, load_tokenizer
    from dlm_trl.models.registry import ModelRef

    reference, base = f"hf:{name}", ModelRef.from_record(name)
    # First the configuration, one small file: looking for a tokenizer where there is no network takes twice as long.
    context, source = context_length(load_config(base.name)), base.resolve()
    tokenizer = load_tokenizer(base.name)
    require_template(tokenizer, f"The teacher {reference}")
    revision = fingerprint(Path(source)) if Path(source).is_dir() else _commit(source)
    return Survey(reference, f"{revision}-{quantization}" if quantization else revision, tokenizer, context)


def _local(known: Survey, document: Document, quantization: Quantization | None) -> LocalTeacher:
    from dlm_trl.models.load import load_to_ask
    from dlm_trl.models.registry import ModelRef
    from dlm_trl.teachers.local import LocalTeacher

    if is_own(known.reference):
        source: str | Path = own_adapter(known.reference, document, _OTHERWISE)
    else:
        source = ModelRef.from_record(known.reference.removeprefix("hf:")).name
    model = load_to_ask(source, quantization)
    return LocalTeacher(model, known.tokenizer, known.reference, known.revision, known.context)


def _commit(hub_id: str) -> str:
    """The commit of a Hub model that was just loaded: its files lie in a folder of that name."""
    from huggingface_hub import try_to_load_from_cache

    return Path(str(try_to_load_from_cache(hub_id, "config.json"))).parent.name


def _fleet(reference: str) -> tuple[list[str], str]:
    """The addresses of vLLM servers, and the model that was named, or nothing."""
    from dlm_trl.teachers.vllm import root

    addresses, _, model = reference.removeprefix("vllm-server:").partition("#")
    urls = [url.strip() for url in addresses.split(",")]
    if not all(urls):
        raise _misuse(reference)
    for url in urls:
        root(url)
    return urls, model


def _misuse(reference: str) -> UsageError:
    return UsageError(f"{reference!r} is no teacher.", hint=f"Write one of these: {FORMS}.")
