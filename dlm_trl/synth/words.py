"""The words of a text, in any script: `words(text)`, and how much of an answer's content another text holds.

Two ways of writing the same words give the same result: case, width, white space and punctuation count nothing.
Symbols do, for `x < y` is not `x > y`; and code in backticks is taken as it stands, for `Map` is not `map`.
"""

from __future__ import annotations

import re
import unicodedata

Words = tuple[str, ...]

STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "does", "for", "from", "has", "have", "in", "is", "it", "its",
    "of", "on", "or", "that", "the", "this", "to", "what", "which", "who", "with",
})  # fmt: skip
_CODE = re.compile(r"(?<!`)`++([^`]+)`++")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3})(?=\S)([^*]+)(?<=\S)\1(?!\w)")
_IS = re.compile(r"(?<=\w)['’]s\b")
_MINUS = re.compile(r"(?<!\w)-(?=[\w-])|(?<=\w )-(?= )")  # a sign, an option, a difference; not the hyphen of a word
_SYMBOLS = "#%&*/@[\\]^{}"  # by their category punctuation, but they tell questions about code and numbers apart
# Written without blanks: each character is a word.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class _Parted(dict[int, str]):
    """For `str.translate`: each character so that `str.split` gives the words."""

    def __missing__(self, code: int) -> str:
        self[code] = _parted(chr(code))
        return self[code]


def _parted(character: str) -> str:
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category == "Cf" or name.startswith("VARIATION SELECTOR"):
        return ""  # soft hyphens, zero-width joiners and their like
    if category[0] in "LMN" or character == "_":
        return f" {character} " if name.startswith(_UNSPACED) else character
    return f" {character} " if (category[0] == "S" and category != "Sk") or character in _SYMBOLS else " "


_PARTED = _Parted()


def words(text: str) -> Words:
    """The words in their order; the text itself where it has none."""
    normal = unicodedata.normalize("NFKC", text)
    found: list[str] = []
    for i, part in enumerate(_CODE.split(normal)):
        found += part.split() if i % 2 else _prose_words(part)
    return tuple(found) or (normal.strip(),)


def content_words(text: str) -> set[str]:
    """The distinct words of a text, code among them, in lower case: without symbols and the stop words of English."""
    normal = unicodedata.normalize("NFKC", text)
    return {word for word in _prose_words(normal) if word[0].isalnum()} - STOP_WORDS


def overlap(answer: str, prose: str) -> float:
    """The share (0 to 1) of the answer's content words that the prose holds; 1 for an answer that has none."""
    found = content_words(answer)
    return len(found & content_words(prose)) / len(found) if found else 1.0


def _prose_words(normal: str) -> list[str]:
    plain = _IS.sub(" is", _EMPHASIS.sub(r"\2", normal.casefold()))
    return _MINUS.sub("−", plain).translate(_PARTED).split()
