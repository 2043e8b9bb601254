"""Teachers by reference: `load_teacher("hf:tiny", document)`, or `inspect_teacher(…)` without loading anything heavy.

References: `self` (the document's trained adapter; `self#NAME` for a named one), `hf:…` (a model on the Hub or in a
folder), and `openai:…`, `anthropic:…`, `vllm-server:…` for servers. Torch and the servers' SDKs are imported only by
the teachers that need them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dlm_trl.notes import Document
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.store import trained_adapter
from dlm_trl.teachers.protocol import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dlm_trl.models.load import Quantization

FORMS = (
    "self (the document's trained adapter; self#NAME for one of several), hf:<id or folder>, hf:tiny (the embedded "
    "model), openai:<model>, anthropic:<model>, vllm-server:<url>[,<url>…][#<model>]"
)
# SmolLM2-135M (576) can't write lists of pairs, Qwen2.5-1.5B (1536) can: benchmarks/RESULTS.md.
MIN_WIDTH = 1024
_NO_ADAPTER_HINT = "take another teacher: --teacher hf:…."

# The files of a local model that decide its replies.
_MODEL_FILES = (
    "*.safetensors", "*config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "chat_template*",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UnloadedTeacher:
    """The `TeacherInfo` of a teacher that isn't loaded. tokenizer: None for a server."""

    reference: str
    revision: str
    tokenizer: PreTrainedTokenizerBase | None = None
    context: int | None = None

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """See `TeacherInfo.count_tokens`. Raises DlmError (ChatTemplateError)."""
        if self.tokenizer is None:
            return None
        from dlm_trl.models.chat import encode

        return len(encode(self.tokenizer, messages, self.reference))


def inspect_teacher(
    reference: str, document: Document | None, quantization: Quantization | None = None
) -> UnloadedTeacher:
    """What can be known about a teacher without loading weights or sending a request.

    The revision of a vLLM server is empty unless the reference names its model. Raises DlmError as `load_teacher` does,
    except for problems that only show in the weights or on the server.
    """
    kind, _, name = reference.partition(":")
    if is_self(reference):
        return _inspect_adapter(reference, document, quantization)
    if not name.strip():
        raise _unknown(reference)
    if kind == "hf":
        return _inspect_base(name, quantization)
    if kind in ("openai", "anthropic"):
        return UnloadedTeacher(reference, name)
    if kind == "vllm-server":
        _, model = _parse_vllm(reference)
        return UnloadedTeacher(reference, model)
    raise _unknown(reference)


def load_teacher(
    reference: str, document: Document | None, quantization: Quantization | None = None, concurrency: int = 16
) -> Teacher:
    """The teacher of a reference, ready for requests.

    document: whose adapter `self` is; other references ignore it. quantization: for local models; by default `self` is
    loaded as it was trained, and others in `precision.inference_dtype`. concurrency: requests in flight per server.
    Raises DlmError: UsageError for an unknown reference, AdapterError for `self` without an adapter, StoreError,
    BaseModelError, ChatTemplateError, MissingExtraError, and TeacherError for a server that can't be used.
    """
    unloaded = inspect_teacher(reference, document, quantization)
    kind, _, name = reference.partition(":")
    if kind == "openai":
        from dlm_trl.teachers.openai import OpenAITeacher

        return OpenAITeacher(name, concurrency=concurrency)
    if kind == "anthropic":
        from dlm_trl.teachers.anthropic import AnthropicTeacher

        return AnthropicTeacher(name, concurrency=concurrency)
    if kind == "vllm-server":
        from dlm_trl.teachers.vllm import VllmTeacher

        urls, model = _parse_vllm(reference)
        return VllmTeacher(urls, model or None, concurrency=concurrency)

    from dlm_trl.models.load import adapter_quantization, load_for_inference
    from dlm_trl.models.registry import ModelRef
    from dlm_trl.teachers.local import LocalTeacher

    source: str | Path
    if is_self(reference):
        source = self_adapter(reference, document, _NO_ADAPTER_HINT)
        quantization = quantization or adapter_quantization(source)
    else:
        source = ModelRef.from_record(name).name
    model, tokenizer = load_for_inference(source, quantization)
    return LocalTeacher(model, tokenizer, reference, unloaded.revision, unloaded.context)


def content_hash(folder: Path) -> str:
    """16 hex digits that change with the weights, tokenizer or configuration of the model or adapter in a folder.

    Reads all weights, about a second per gigabyte: training changes their values, not their names or sizes.
    """
    files = {file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\n{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def is_self(reference: str) -> bool:
    """Whether the reference is `self` or `self#NAME`: an adapter of the document."""
    return reference == "self" or reference.startswith("self#")


def is_local(reference: str) -> bool:
    """Whether the teacher's weights are loaded in this process."""
    return is_self(reference) or reference.startswith("hf:")


def keeps_schema(reference: str) -> bool:
    """Whether a teacher's replies keep to a schema that bounds a list: vLLM's, and local ones if llguidance is there.

    Other servers refuse a schema with bounds.
    """
    return reference.startswith("vllm-server:") or (is_local(reference) and find_spec("llguidance") is not None)


def writes_lists(reference: str, document: Document) -> bool:
    """Whether a teacher can be asked for a list of pairs.

    Servers can, and the embedded model was trained to. Of other local models those with a hidden size of `MIN_WIDTH`.
    """
    if not is_local(reference):
        return True
    from dlm_trl.models.load import adapter_base, load_config
    from dlm_trl.models.registry import ModelRef

    if is_self(reference):
        base = adapter_base(self_adapter(reference, document, _NO_ADAPTER_HINT))
    else:
        base = ModelRef.from_record(reference.removeprefix("hf:")).name
    return base == "tiny" or int(load_config(base).get_text_config().hidden_size) >= MIN_WIDTH


def self_adapter(reference: str, document: Document | None, alternative: str) -> Path:
    """The folder of the adapter that `self` or `self#NAME` refers to.

    alternative: what else to do if there is none, for the error's hint. Raises DlmError: UsageError without a document,
    and what `trained_adapter` raises.
    """
    if document is None:
        raise UsageError(f"{reference!r} is the adapter of a document, and there is no document.", "Name a document.")
    _, _, name = reference.partition("#")
    return trained_adapter(document, name or None, "Name one: self#NAME.", alternative)


def _inspect_adapter(reference: str, document: Document | None, quantization: Quantization | None) -> UnloadedTeacher:
    from dlm_trl.models.chat import require_template
    from dlm_trl.models.load import (
        adapter_base,
        adapter_quantization,
        adapter_tokenizer,
        context_length,
        load_config,
    )

    folder = self_adapter(reference, document, _NO_ADAPTER_HINT)
    context, tokenizer = context_length(load_config(adapter_base(folder))), adapter_tokenizer(folder)
    hint = "Train on a base_model with a chat template, or take another --teacher."
    require_template(tokenizer, f"The teacher {reference}", hint)
    quantization = quantization or adapter_quantization(folder)
    revision = f"{folder.name}-{content_hash(folder)}{f'-{quantization}' if quantization else ''}"
    return UnloadedTeacher(reference, revision, tokenizer, context)


def _inspect_base(name: str, quantization: Quantization | None) -> UnloadedTeacher:
    from dlm_trl.models.chat import require_template
    from dlm_trl.models.load import context_length, load_config, load_tokenizer
    from dlm_trl.models.registry import ModelRef

    reference, base = f"hf:{name}", ModelRef.from_record(name)
    # The configuration first: without a network, a missing tokenizer takes twice as long to fail.
    context, location = context_length(load_config(base.name)), base.resolve()
    tokenizer = load_tokenizer(base.name)
    require_template(tokenizer, f"The teacher {reference}")
    revision = content_hash(Path(location)) if Path(location).is_dir() else _cached_commit(location)
    return UnloadedTeacher(reference, f"{revision}-{quantization}" if quantization else revision, tokenizer, context)


def _cached_commit(hub_id: str) -> str:
    """The commit of a Hub model whose configuration was just loaded: the name of its folder in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return Path(str(try_to_load_from_cache(hub_id, "config.json"))).parent.name


def _parse_vllm(reference: str) -> tuple[list[str], str]:
    """The servers' URLs, and the model's name or ""."""
    from dlm_trl.teachers.vllm import server_url

    addresses, _, model = reference.removeprefix("vllm-server:").partition("#")
    urls = [url.strip() for url in addresses.split(",")]
    if not all(urls):
        raise _unknown(reference)
    for url in urls:
        server_url(url)
    return urls, model


def _unknown(reference: str) -> UsageError:
    return UsageError(f"Unknown teacher {reference!r}.", hint=f"Use one of: {FORMS}.")
