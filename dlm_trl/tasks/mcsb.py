"""Multiple-choice symbol binding: which of several lettered words does a description mean?

    task = Mcsb(tokenizer)                                          # five options, A to E
    Mcsb(tokenizer, choices=(5, 9), labels=("upper", "digits"))     # both drawn for every question
    Mcsb(tokenizer, distractors="near", embeddings=base.get_input_embeddings().weight)
    Mcsb(tokenizer, split="held_out")                               # words that training never uses

The word is drawn first, the frozen base describes it, and the answer is the word's label. Words are nouns of
wonderwords that are a single token for this tokenizer; so is each label (`bind`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, NamedTuple

from dlm_trl.notes.errors import TokenizerError, UsageError
from dlm_trl.tasks import prompts
from dlm_trl.tasks.protocol import Example, Messages, Reject, accuracy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# Any other string is a list of labels, one per character: labels="VWXYZ".
LABEL_STYLES = {"upper": "ABCDEFGHI", "lower": "abcdefghi", "digits": "123456789"}
HELD_OUT = 0.1
NEAR = 16  # neighbours of the answer that near distractors are drawn from

Split = Literal["train", "held_out"]


class Bound(NamedTuple):
    """How to append a label to a question for a tokenizer: `question + gap`, then one of the targets."""

    gap: str  # usually ""; " " if a space before a label is a separate token
    targets: tuple[str, ...]  # each a single token when tokenised alone, without special tokens
    ids: tuple[int, ...]


class McsbItem(NamedTuple):
    """A drawn item: the word to describe, which is one of the options, and the options' labels."""

    word: str
    options: tuple[str, ...]
    labels: str  # one character per option
    bound: Bound


def style_labels(style: str) -> str:
    """The labels of a style, in order; a string that isn't a style is its own labels."""
    return LABEL_STYLES.get(style, style)


def bind(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> Bound:
    """How to write the labels so that each is one token, and so that question and label tokenise as their joined text.

    A label is `" A"` for tokenizers that merge a space into the next token, `"A"` for those that add the space
    themselves, and `"1"` after a separate space for those that split off digits. Raises DlmError (TokenizerError) if
    none of these works, or if two labels are the same token.
    """
    question = prompts.question("a thing", labels, labels)
    joined = [_ids(tokenizer, f"{question} {label}") for label in labels]
    for gap, space in (("", " "), ("", ""), (" ", "")):
        before = _ids(tokenizer, question + gap)
        targets = tuple(space + label for label in labels)
        tokens = [_ids(tokenizer, target) for target in targets]
        if all(len(t) == 1 and before + t == w for t, w in zip(tokens, joined, strict=True)):
            ids = tuple(t[0] for t in tokens)
            if len(set(ids)) == len(ids):
                return Bound(gap, targets, ids)
    raise TokenizerError(
        f"The labels {' '.join(labels)} are not one token each for this tokenizer, or not all different.",
        hint=f"Choose other labels: {', '.join(LABEL_STYLES)}, or a string of characters.",
    )


@lru_cache
def nouns() -> tuple[str, ...]:
    """The nouns of wonderwords in alphabetical order: lower-case letters, not profane, not in the few-shot list."""
    from wonderwords import RandomWord, is_profanity
    from wonderwords.random_word import Defaults

    shown = {word for word, _ in prompts.FEW_SHOT}
    words = RandomWord.read_words(Defaults.NOUNS.value)
    return tuple(sorted({w for w in words if re.fullmatch("[a-z]{2,}", w) and w not in shown and not is_profanity(w)}))


def is_held_out(word: str, share: float) -> bool:
    """Whether a word is held out of training; decided by its hash, independently of tokenizer, run and other words."""
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big") < share * 2**64


@dataclass(slots=True)
class Mcsb:
    """The task; see `protocol.Task` for its methods.

    choices: the number of options, or its minimum and maximum. labels: a style or several, one of which is drawn per
    question; a style is a name in `LABEL_STYLES` or a string of labels. loss: see `protocol.Example`. distractors: any
    words of the split, or the answer's neighbours by `embeddings`, the base's input embeddings (vocabulary, width).
    words: used instead of the nouns of wonderwords, as far as they are a single token after a space.

    A description is rejected if it is empty, contains its word, or is truncated at `max_new_tokens`. Raises DlmError
    (UsageError, TokenizerError) for impossible labels or choices, and if the split has too few words.
    """

    tokenizer: PreTrainedTokenizerBase
    choices: int | tuple[int, int] = 5
    labels: str | tuple[str, ...] = "upper"
    loss: Literal["full", "labels"] = "full"
    held_out: float = HELD_OUT  # share of the words
    split: Split = "train"
    distractors: Literal["random", "near"] = "random"
    embeddings: Tensor | None = None
    words: Sequence[str] = field(default_factory=nouns, repr=False)
    max_new_tokens: int = 28
    temperature: float = 0.8
    name: str = field(default="mcsb", init=False)
    prefix: str = field(default_factory=prompts.description_prefix, init=False)
    stop: tuple[str, ...] = field(default=("\n",), init=False)
    _bounds: dict[str, Bound] = field(default_factory=dict, init=False, repr=False)
    _others: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        least, most = self.range
        for labels in self.alphabets:
            if not 2 <= least <= most <= len(labels):
                raise UsageError(
                    f"{self.choices} choices don't fit the labels {labels}.", hint=f"Give 2 to {len(labels)}."
                )
            if len(set(labels)) < len(labels):
                raise UsageError(f"The labels {labels} are not all different.", hint="Use each label once.")
            self._bounds |= {labels[:n]: bind(self.tokenizer, labels[:n]) for n in range(least, most + 1)}
        self.words = self._usable(self.words)
        if len(self.words) < most + 1:
            raise UsageError(
                f"Only {len(self.words)} of the {self.split} words are a single token for this tokenizer.",
                hint=f"That's too few for {most} options: pass other words, or change held_out.",
            )
        if self.distractors == "near":
            self._others = self._neighbours(max(NEAR, most - 1))

    @property
    def range(self) -> tuple[int, int]:
        """The minimum and maximum number of options."""
        return (self.choices, self.choices) if isinstance(self.choices, int) else self.choices

    @property
    def alphabets(self) -> tuple[str, ...]:
        """The labels of each style."""
        styles = (self.labels,) if isinstance(self.labels, str) else self.labels
        return tuple(style_labels(style) for style in styles)

    def draw(self, rng: random.Random, n: int) -> list[McsbItem]:
        return [self._item(rng) for _ in range(n)]

    def prompts(self, items: Sequence[McsbItem]) -> list[str | Messages]:
        return [self.prefix + prompts.description_prompt(item.word) for item in items]

    def examples(self, items: Sequence[McsbItem], generated: Sequence[str]) -> list[Example | Reject]:
        return [self._row(item, text) for item, text in zip(items, generated, strict=True)]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        return accuracy(examples, predictions)

    def example(self, item: McsbItem, description: str) -> Example:
        """The row for a description from any source."""
        return Example(
            prompt=prompts.question(description, item.options, item.labels) + item.bound.gap,
            target=item.bound.targets[item.options.index(item.word)],
            choices=item.bound.targets,
            facts={"word": item.word, "description": description, "options": item.options, "labels": item.labels},
            loss=self.loss,
        )

    def _row(self, item: McsbItem, text: str) -> Example | Reject:
        description = " ".join(text.split())
        if not re.search(r"[^\W\d_]", description):
            return Reject("empty")
        if contains_word(description, item.word):
            return Reject("contains the word")
        if len(_ids(self.tokenizer, text)) >= self.max_new_tokens:
            return Reject("truncated")
        return self.example(item, description)

    def _item(self, rng: random.Random) -> McsbItem:
        count = rng.randint(*self.range)
        labels = rng.choice(self.alphabets)[:count]
        word = rng.choice(self.words)
        if self.distractors == "near":
            options = rng.sample(self._others[word], count - 1)
        else:
            # One too many, in case the answer is among them.
            options = [w for w in rng.sample(self.words, count) if w != word][: count - 1]
        options.insert(rng.randrange(count), word)
        return McsbItem(word, tuple(options), labels, self._bounds[labels])

    def _usable(self, words: Sequence[str]) -> list[str]:
        held_out = self.split == "held_out"
        kept = [w for w in dict.fromkeys(words) if is_held_out(w, self.held_out) == held_out]
        before = len(_ids(self.tokenizer, "Word:"))
        encoded = self.tokenizer([f"Word: {w}" for w in kept], add_special_tokens=False)["input_ids"] if kept else []
        return [w for w, ids in zip(kept, encoded, strict=True) if len(ids) == before + 1]

    def _neighbours(self, count: int) -> dict[str, list[str]]:
        """For each word, its `count` nearest words by cosine similarity of the mean-centred embeddings."""
        if self.embeddings is None:
            raise UsageError(
                "Near distractors need embeddings.", hint="Pass embeddings=model.get_input_embeddings().weight."
            )
        tokens = [_ids(self.tokenizer, f"Word: {w}")[-1] for w in self.words]
        rows = self.embeddings.detach()[tokens].float().cpu()
        rows = rows - rows.mean(0)
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        order = (rows @ rows.T).fill_diagonal_(-2).argsort(dim=1, descending=True, stable=True)
        nearest = order[:, : min(count, len(tokens) - 1)].tolist()
        return {w: [self.words[k] for k in near] for w, near in zip(self.words, nearest, strict=True)}


def contains_word(description: str, word: str) -> bool:
    """Whether any word of the description starts with the word, as `cats` does with `cat`.

    A final e or y of a longer word is ignored, so `babies` contains `baby` and `dancing` contains `dance`.
    """
    stem = word[:-1] if len(word) > 3 and word[-1] in "ey" else word
    return re.search(rf"\b{re.escape(stem)}", description, re.IGNORECASE) is not None


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
