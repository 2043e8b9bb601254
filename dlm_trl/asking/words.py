"""The words of a text in any script, `words(text)`, how many of an answer's content words it contains, and their forms.

Case, width, white space and punctuation don't matter. Symbols do, because `x < y` isn't `x > y`, and code in backticks
keeps its case, because `Map` isn't `map`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

Words = tuple[str, ...]

STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "does", "for", "from", "has", "have", "in", "is", "it", "its",
    "of", "on", "or", "that", "the", "this", "to", "what", "which", "who", "with",
})  # fmt: skip
_CODE = re.compile(r"(?<!`)`++([^`]+)`++")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3})(?=\S)([^*]+)(?<=\S)\1(?!\w)")
_IS = re.compile(r"(?<=\w)['’]s\b")
_MINUS = re.compile(r"(?<!\w)-(?=[\w-])|(?<=\w )-(?= )")  # a sign, an option or a difference, but not a hyphen
_ENDING, _MAX_ENDING = re.compile(r"(?:ing|ed|es|s|e|ly|er)$"), 4
_SYMBOLS = "#%&*/@[\\]^{}"  # punctuation in Unicode, but meaningful in code and numbers
# Scripts without spaces between words: each character counts as a word.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class _Separated(dict[int, str]):
    """A table for `str.translate` that pads or replaces characters so that `str.split` gives the words."""

    def __missing__(self, code: int) -> str:
        self[code] = _separated(chr(code))
        return self[code]


def _separated(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category == "Cf" or name.startswith("VARIATION SELECTOR"):
        return ""  # soft hyphens, zero-width joiners and the like
    if category[0] in "LMN" or character == "_":
        return f" {character} " if name.startswith(_UNSPACED) else character
    return f" {character} " if (category[0] == "S" and category != "Sk") or character in _SYMBOLS else " "


_SEPARATED = _Separated()


@lru_cache(maxsize=32)  # the prose of a request is compared with one pair after the other
def words(text: str) -> Words:
    """The words in order; the text itself if it has none."""
    normal = unicodedata.normalize("NFKC", text)
    result: list[str] = []
    for i, part in enumerate(_CODE.split(normal)):
        result += part.split() if i % 2 else _prose_words(part)
    return tuple(result) or (normal.strip(),)


@lru_cache(maxsize=32)
def content_words(text: str) -> frozenset[str]:
    """The distinct words of a text in lower case, including code, without symbols and English stop words."""
    normal = unicodedata.normalize("NFKC", text)
    return frozenset(word for word in _prose_words(normal) if word[0].isalnum()) - STOP_WORDS


def overlap(answer: str, prose: str) -> float:
    """Fraction of the answer's content words that occur in the prose in any form, 0 to 1; 1 if the answer has none."""
    said, known = content_words(answer), content_words(prose)
    return sum(word in known or has_form(known, word) for word in said) / len(said) if said else 1.0


def has_form(among: Iterable[str], word: str) -> bool:
    """Whether a word is among these in any form: `keeps` and `keep`, `shaping` and `shape`."""
    stem = _stem(word)
    return any(other.startswith(stem) and len(other) - len(stem) <= _MAX_ENDING for other in among)


def forms(vocabulary: Sequence[str], word: str) -> Iterator[str]:
    """The forms of a word in a sorted vocabulary."""
    stem = _stem(word)
    for i in range(bisect_left(vocabulary, stem), len(vocabulary)):
        if not vocabulary[i].startswith(stem):
            return
        if len(vocabulary[i]) - len(stem) <= _MAX_ENDING:
            yield vocabulary[i]


def _stem(word: str) -> str:
    stem = _ENDING.sub("", word)
    return stem if len(word) > 3 and len(stem) > 1 else word  # not the `r` of `ring`


def _prose_words(normal: str) -> list[str]:
    plain = _IS.sub(" is", _EMPHASIS.sub(r"\2", normal.casefold()))
    return _MINUS.sub("−", plain).translate(_SEPARATED).split()
