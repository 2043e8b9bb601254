"""The words of a text that carry its content: `content_words(text)`, and how many of one text another one holds."""

from __future__ import annotations

import re

STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "does", "for", "from", "has", "have", "in", "is", "it", "its",
    "of", "on", "or", "that", "the", "this", "to", "what", "which", "who", "with",
})  # fmt: skip
_WORD = re.compile(r"[^\W_]+")  # letters and digits of any script


def content_words(text: str) -> set[str]:
    """The distinct words of a text in lower case, without the stop words of English."""
    return set(_WORD.findall(text.lower())) - STOP_WORDS


def overlap(answer: str, prose: str) -> float:
    """The share (0 to 1) of the answer's content words that the prose holds; 1 for an answer that has none."""
    words = content_words(answer)
    return len(words & content_words(prose)) / len(words) if words else 1.0
