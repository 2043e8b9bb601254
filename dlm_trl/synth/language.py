"""Whether prose is English (`is_english`), and surely isn't (`is_foreign`): a teacher is told to keep its language."""

from __future__ import annotations

import re

_COMMON = frozenset({
    "and", "are", "be", "but", "by", "can", "for", "from", "has", "have", "if", "is", "it", "its", "not", "of", "that",
    "the", "this", "to", "was", "were", "when", "will", "with", "you",
})  # fmt: skip
_MIN_COMMON = 0.08  # share of a text's words
_SURE = 20  # words

_WORD = re.compile(r"[^\W\d_]+")
_OTHER_SCRIPT = re.compile(r"[^\W\d_\u0000-\u024f]")  # a letter that isn't Latin


def is_english(prose: str) -> bool:
    """Whether the prose has as many of the commonest English words as English has."""
    words = _WORD.findall(prose.lower())
    return sum(word in _COMMON for word in words) >= _MIN_COMMON * len(words) > 0


def is_foreign(prose: str) -> bool:
    """Whether the prose is mostly in another script, or long enough to tell that it isn't English."""
    words = _WORD.findall(prose)
    if 2 * len(_OTHER_SCRIPT.findall(prose)) > len("".join(words)):
        return True
    return len(words) >= _SURE and not is_english(prose)
