"""Small tokenizers of the usual kinds; in each, a space and a noun of `WORDS` is one token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOUNS = (
    "bridge cheese desert engine farmer garden hammer island jacket kettle ladder market needle office pencil river "
    "saddle temple valley window candle dancer forest guitar helmet insect jungle lawyer mirror napkin oyster palace"
)
WORDS = _NOUNS.split()
TEXT = [f"Word: {w}\nDescription: a {w}\n\nA) {w}\nAnswer (A to E): A a) {w}\n1) {w} (1 to 9): 1" for w in WORDS] + [
    f"{a}) x Answer ({a} to {b}): {a} {b}" for a in "ABCDEFGHIabcdefghi123456789" for b in "ABCDEFGHIabcdefghi123456789"
]


def gpt2_style() -> PreTrainedTokenizerBase:
    """Byte-level BPE that merges a space into the next token; no pad token or chat template, one special token."""
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def qwen_style() -> PreTrainedTokenizerBase:
    """Byte-level BPE that splits off every digit, and the space before it."""
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    return _byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    )


def llama2_style() -> PreTrainedTokenizerBase:
    """SentencePiece-like BPE: a space is a character, and one is prepended to every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁\n):(]+|[▁\n):(]"), behavior="isolated")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "</s>"]))
    return _wrapped(tokenizer, "</s>")


def words_only(text: str) -> PreTrainedTokenizerBase:
    """One token per word of `text`, and one for all other words."""
    vocabulary = {word: k for k, word in enumerate(["<unk>", "</s>", *dict.fromkeys(text.split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _wrapped(tokenizer, "</s>")


def _byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=900, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    return _wrapped(tokenizer, "<|endoftext|>")


def _wrapped(tokenizer: Tokenizer, end: str) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)
