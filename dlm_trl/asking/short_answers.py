"""A sentence as a short answer: `shortened("What does rice flour keep?", "Rice flour keeps the dough dry.")`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dlm_trl.asking.words import has_form

# What links the subject of a sentence to what is said of it, and can be left out of an answer.
_LINKS = frozenset({"is", "are", "was", "were", "means", "mean", "called"})
_ARTICLES = frozenset({"a", "an", "the"})
_JOINING = frozenset({"and", "but", "or"})
_ASKING = frozenset({"how", "what", "when", "where", "which", "who", "why", "because"})
_WORD = re.compile(r"[\w'’-]+")


def shortened(question: str, sentence: str) -> str:
    """The sentence as an answer: without the beginning that repeats the question; all of it if that isn't sure.

    "What does rice flour do?" is answered by the whole of "Rice flour keeps the dough dry.", "What does rice flour
    keep?" by "The dough dry." A model that is trained on whole sentences answers every question with one. Reads
    English.
    """
    asked = [word.lower() for word in _WORD.findall(question)]
    said = list(_WORD.finditer(sentence))
    words = [match[0].lower() for match in said]
    n = _repeated(asked, words)
    if not 0 < n < len(words) or re.match(r"what (?:happen|do(?:es)? .* do\b)", question, re.IGNORECASE):
        return sentence
    last, between = words[n - 1], sentence[said[n - 1].end() : said[n].start()]
    starts_after_verb = last in _LINKS or last == asked[-1] or last not in asked or "," in between
    if not starts_after_verb or words[n] in _JOINING:
        return sentence
    rest = sentence[said[n].start() :]
    rest = rest.removeprefix("that ") if last in ("means", "mean") else rest
    return rest[0].upper() + rest[1:]


def _repeated(asked: Sequence[str], words: Sequence[str]) -> int:
    """How many of the first words only repeat those of the question, each of them once, or link them."""
    left = [word for word in asked if word not in _ASKING]
    n = 0
    for word in words:
        same = next((other for other in left if has_form([other], word)), None)
        if same:
            left.remove(same)
        elif word not in _LINKS | _ARTICLES:
            break
        n += 1
    while n and words[n - 1] in _ARTICLES:  # they belong to what follows
        n -= 1
    return n
