"""The tiny base's tokenizer: byte-level BPE where chosen words are single tokens, and all other nouns aren't.

Used by `scripts/build_tiny_base.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tiny_corpus import BOS, EOS, PAD, START
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = [BOS, EOS, PAD, START]
SPACE = "Ġ"  # byte-level BPE's form of a leading space
# ChatML without a default system prompt; the generation block marks the assistant's text with its end-of-turn token.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{{- '\\n' }}
{%- else %}
{{- message['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def _tokenizer(merges: list[tuple[str, str]]) -> Tokenizer:
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(m) for m in merges)]
    vocabulary = {symbol: i for i, symbol in enumerate(SPECIAL + list(dict.fromkeys(symbols)))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _trained_merges(texts: Iterable[str], size: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    return [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]


def _allowed(merges: list[tuple[str, str]], forbidden: set[str]) -> list[tuple[str, str]]:
    """`merges` without those that make a forbidden token or build on one."""
    gone, kept = set(forbidden), []
    for left, right in merges:
        if left in gone or right in gone or left + right in gone:
            gone.add(left + right)
        else:
            kept.append((left, right))
    return kept


def build_tokenizer(
    texts: list[str], single: list[str], other_nouns: list[str], size: int, out: Path
) -> PreTrainedTokenizerFast:
    """Train on `texts`; each string in `single` (with its space) becomes one token, no ` noun` in `other_nouns` does.

    Writes the tokenizer with its chat template to `out` and returns it. Raises AssertionError if a word came out wrong.
    """
    forbidden = {SPACE + noun for noun in other_nouns} - {s.replace(" ", SPACE) for s in single}
    learned = _allowed(_trained_merges(texts, 2 * size), forbidden)
    room = size - len(SPECIAL) - len(pre_tokenizers.ByteLevel.alphabet())
    base = room
    while len(merges := _with_words(learned[:base], single)) > room:
        base -= len(merges) - room
    tokenizer = _tokenizer(merges)
    for text in single:
        assert len(tokenizer.encode(text).ids) == 1, f"{text!r} is {tokenizer.encode(text).tokens}"
    for noun in other_nouns:
        assert f" {noun}" in single or len(tokenizer.encode(f" {noun}").ids) > 1, f"{noun!r} is one token"
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=1024,
        clean_up_tokenization_spaces=False, additional_special_tokens=[START], chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    fast.save_pretrained(out)
    return fast


def _with_words(merges: list[tuple[str, str]], single: list[str]) -> list[tuple[str, str]]:
    """`merges`, followed by those that make each text in `single` one token.

    They merge from the right, so that only the last one has the leading space, and no other noun becomes a token.
    """
    merges = list(merges)
    for text in single:
        tokens = _tokenizer(merges).encode(text).tokens
        while len(tokens) > 1:
            merges.append((tokens[-2], tokens[-1]))
            tokens[-2:] = [tokens[-2] + tokens[-1]]
    return merges
