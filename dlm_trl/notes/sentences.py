"""The sentences of prose: `paragraphs(prose)`.

Headings, tables and code aren't prose. Each item of a list is a sentence or more.
"""

from __future__ import annotations

import re

_CODE = re.compile(r"^(```|~~~).*?(^\1\s*$|\Z)", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"^[^\S\n]*[#|].*$", re.MULTILINE)
_QUOTE = re.compile(r"^[^\S\n]*>[^\S\n]?", re.MULTILINE)
_ITEM = re.compile(r"^[^\S\n]*(?:[-*+•]|\d{1,3}[.)])[^\S\n]+", re.MULTILINE)
# A sentence doesn't begin with a small letter ("approx. two"). Chinese and Japanese have no space between sentences.
_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"”’')]))\s+(?=[^\Wa-z]|[\"“‘'(`])|(?<=[。！？])\s*(?=\S)")


def paragraphs(prose: str) -> list[list[str]]:
    """The sentences of each paragraph, with white space collapsed. No paragraph is empty."""
    text = _QUOTE.sub("", _NOT_PROSE.sub("", _CODE.sub("", prose)))
    split = [[s for item in _ITEM.split(block) for s in sentences(item)] for block in re.split(r"\n\s*\n", text)]
    return [paragraph for paragraph in split if paragraph]


def sentences(text: str) -> list[str]:
    """The sentences of a text without markup."""
    return [sentence for sentence in _END.split(" ".join(text.split())) if sentence]
