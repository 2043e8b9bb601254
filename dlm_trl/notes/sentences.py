"""The sentences of prose: `paragraphs(prose)`, and the lines they start in: `sentence_lines(prose)`.

Headings, tables and code aren't prose. Each item of a list is a sentence or more.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

# The English numbers that prose writes in words.
NUMBERS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50",
    "hundred": "100", "thousand": "1000", "million": "1000000",
}  # fmt: skip

_CODE = re.compile(r"^(```|~~~).*?(^\1\s*$|\Z)", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"^[^\S\n]*[#|].*$", re.MULTILINE)
_QUOTE = re.compile(r"^[^\S\n]*>[^\S\n]?", re.MULTILINE)
_ITEM = re.compile(r"^[^\S\n]*(?:[-*+•]|\d{1,3}[.)])[^\S\n]+", re.MULTILINE)
# A sentence doesn't begin with a small letter ("approx. two"). Chinese and Japanese have no space between sentences.
_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"”’')]))\s+(?=[^\Wa-z]|[\"“‘'(`])|(?<=[。！？])\s*(?=\S)")


def paragraphs(prose: str) -> list[list[str]]:
    """The sentences of each paragraph, with white space collapsed. No paragraph is empty."""
    return [list(paragraph) for paragraph in _paragraphs(prose)]


@lru_cache(maxsize=4)  # who asks for the sentences of a section often asks for their lines next
def _paragraphs(prose: str) -> tuple[tuple[str, ...], ...]:
    blocks = re.split(r"\n\s*\n", _only_prose(prose))
    split = (tuple(s for item in _ITEM.split(block) for s in sentences(item)) for block in blocks)
    return tuple(paragraph for paragraph in split if paragraph)


def sentence_lines(prose: str) -> list[int]:
    """The line of the prose, from 0, in which each sentence of `paragraphs(prose)` starts."""
    # The sentences have the same visible characters as the lines, in the same order.
    ends = list(accumulate(map(_visible, _ITEM.sub("", _only_prose(prose)).split("\n"))))
    lengths = [_visible(sentence) for paragraph in _paragraphs(prose) for sentence in paragraph]
    return [bisect_right(ends, start) for start in accumulate(lengths[:-1], initial=0)] if lengths else []


def sentences(text: str) -> list[str]:
    """The sentences of a text without markup."""
    return [sentence for sentence in _END.split(" ".join(text.split())) if sentence]


def _only_prose(prose: str) -> str:
    """The same lines without headings, tables, code and the signs of quotes."""
    without_code = _CODE.sub(lambda code: "\n" * code[0].count("\n"), prose)
    return _QUOTE.sub("", _NOT_PROSE.sub("", without_code))


def _visible(text: str) -> int:
    return len("".join(text.split()))
