"""Documents on disk, a separate cache, and small tokenizers made on the fly; importing this doesn't load torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from dlm_trl.notes import Document
from dlm_trl.rows import convert as convert_module
from dlm_trl.rows.register import register

register()


def convert(document: Document, kind: str = "sft", adapter: str | None = None) -> list[convert_module.Row]:
    return list(convert_module.convert(document, kind, adapter))


HEADER = "---\ndlm_id: 01HRZYQ2X0MB5K4VN7E9DNT5GH\ndlm_version: 15\nbase_model: tiny\n{extra}---\n"
PROSE_ID = "421905de9ab75735"  # of the prose "Prose one.", as the format's own vectors have it
SYNTH = (
    '<!-- dlm-auto-synth: synth_teacher="self" synth_strategy="extraction" synth_at="2026-01-02T03:04:05Z" '
    'source_section_id="{id}" -->\n'
)
NOTES = (
    "Prose one.\n\n::instruction::\n### Q\nWho wrote it?\n### A\nA human.\n\n### Q\nWhen?\n### A\nToday.\n"
    "::instruction::\n" + SYNTH.format(id=PROSE_ID) + "### Q\nWhich prose?\n### A\nOne.\n"
    "::preference::\n### Prompt\nSay hi.\n### Chosen\nHi.\n### Rejected\nNo.\n"
    "::prose::\nProse two.\n"
)

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "downloads")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, body, extra frontmatter) → the path of a new document."""

    def write(name: str = "notes.dlm", body: str = NOTES, extra: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER.format(extra=extra) + body, encoding="utf-8")
        return path

    return write


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "The heron stands in the shallow water and waits. Who wrote it? A human did, and not a machine. " * 20


def make_tokenizer(specials: list[str], **settings: Any) -> Any:
    """A small byte-level BPE tokenizer like GPT-2's, with these special tokens at the start of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """ChatML-like, with its own pad token, and a BOS token that isn't added automatically."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Any:
    """No pad token and no template; one special token is BOS and EOS."""
    return make_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
