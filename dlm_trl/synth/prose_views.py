"""Prose views, by their words: `problem(text, prose)` says why a teacher's sentence can't be trained on, or None.

It has to be whole, in the prose's language, to be understood alone, and to take its numbers from the prose.
"""

from __future__ import annotations

import re
import unicodedata

from dlm_trl.asking.language import is_english, is_same_language
from dlm_trl.asking.words import content_words, has_form, overlap, words
from dlm_trl.notes.sentences import NUMBERS, paragraphs, sentences
from dlm_trl.synth.answers import numbers
from dlm_trl.synth.view_kinds import ViewKind

_MIN_WORDS, _MAX_WORDS = 4, 60
_MAX_SUMMARY = 160  # words
_MIN_KNOWN = 0.6  # of its content words: what goes further is what a small model believes, not what the prose says
_RUN = 4  # words
_WHOLE = re.compile(r"[.!。！][\"”’')」』]?$")
_OF_TEXT = re.compile(
    r"\b(?:the|this) (?:text|passage|paragraph|author|fact|sentence|statement|summary|following|above)\b"
    r"|\b(?:mentioned|described|stated) (?:above|earlier|before|here)\b|\baccording to the\b",
    re.IGNORECASE,
)
# Without what it stands for. "It is easy to shape a stiff dough" and "It takes an hour to …" are understood.
_REFERS_BACK = re.compile(
    r"(?:(?:They|These|Those|He|She|Its|Their|This|That)\b(?! (?:is|means) (?:why|because|when|how)\b)"
    r"|It (?!(?:takes|is|was|can be|may be) [^.]*\b(?:to|that|when|if)\b))",
)
_LABEL = re.compile(r"^(?:Q|A|Question|Answer|Background|Implication|Fact|Note)\s*\d*\s*:", re.IGNORECASE)
_SMALL = frozenset({"1"})  # "one" counts nothing in "one hand" or "the one that"


def problem(kind: ViewKind, text: str, prose: str) -> str | None:
    """Why the text can't be trained on as a view of this kind, or None. Numbers are compared in English prose."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return "contains a control character or surrogate"
    n = len(words(text))
    if n < _MIN_WORDS:
        return "too short"
    if n > (_MAX_SUMMARY if kind == "summary" else _MAX_WORDS):
        return "too long"
    if _LABEL.match(text) or text.endswith(("?", "？")):
        return "not a statement"
    if not _WHOLE.search(text):
        return "doesn't end as a sentence"
    if not is_same_language(text, prose):
        return "in another language"
    if names_text(text) or _REFERS_BACK.match(text):
        return "not understood without the text"
    if is_english(prose):
        known = numbers(prose) | {NUMBERS[word] for word in words(prose) if word in NUMBERS} | _SMALL
        said = numbers(text) | {NUMBERS[word] for word in words(text) if word in NUMBERS}
        if invented := sorted(said - known):
            return f"the text doesn't have this number: {', '.join(invented)}"
    if _repeats_itself(text):
        return "repeats itself"
    if kind == "summary" and _is_copied(text, prose):
        return "copies the text"
    if overlap(text, prose) < _MIN_KNOWN:
        in_prose = content_words(prose)
        return f"not in the text: {', '.join(sorted(w for w in content_words(text) if not has_form(in_prose, w)))}"
    return None


def _is_copied(text: str, prose: str) -> bool:
    """Whether at least half of its sentences are the prose's."""
    known = {words(sentence) for paragraph in paragraphs(prose) for sentence in paragraph}
    own = [words(sentence) for sentence in sentences(text)]
    return 2 * sum(sentence in known for sentence in own) >= len(own)


def names_text(text: str) -> bool:
    """Whether it refers to the text that it is about, which its reader doesn't have: "mentioned in the fact"."""
    return _OF_TEXT.search(text) is not None


def _repeats_itself(text: str) -> bool:
    """Whether it says four words twice, or less than half of its words are different ones: a small model loops."""
    said = [word for word in words(text) if word[0].isalnum()]
    different = content_words(text)
    runs = [
        run for i in range(len(said) - _RUN + 1) if len(different.intersection(run := tuple(said[i : i + _RUN]))) > 1
    ]
    return len(set(runs)) < len(runs) or len(different) * 2 < sum(word in different for word in said)
