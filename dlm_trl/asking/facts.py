"""The facts of prose that a teacher is asked about, one by one: `facts(prose)`. A fact is a sentence, as it stands."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from dlm_trl.asking.words import words
from dlm_trl.notes.sentences import paragraphs

_MIN_WORDS, _MAX_WORDS = 4, 50
# Beginnings that refer to the sentence before.
_REFERS_BACK = re.compile(
    r"(?:(?:If|When|Once|After|Before|In|At|By|With|For|Because of) )?(?:It|They|This|These|That|Those|He|She|Then)\b"
    r"|(?:There|Such|Here|First|Next|Finally|Also|Otherwise|However|Both|Each|One of)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][\w-]*")
_MAX_BEFORE = 2  # sentences
_MAX_BACKGROUND = 3  # sentences
_PRONOUN = re.compile(
    r"\b(?:it|its|they|them|their|he|she|this|these|such|then|first|next|finally|also|otherwise|however|both|each"
    r"|one of)\b",
    re.IGNORECASE,
)
NEIGHBOURS = 4  # sentences on either side


class Fact(NamedTuple):
    """sentence: verbatim. context: the sentence, after those before it that it refers to.

    nearby: the sentence and up to four on either side, in order, from its paragraph. names: words that the prose writes
    with a capital inside its sentences.
    """

    sentence: str
    context: str
    nearby: tuple[str, ...]
    names: frozenset[str] = frozenset()


@lru_cache(maxsize=16)  # a run looks at them before it asks and after it
def facts(prose: str) -> tuple[Fact, ...]:
    """The sentences that say something: of 4 to 50 words, not questions. In order, without repetitions."""
    found: dict[str, Fact] = {}
    names = frozenset(_NAME.findall(prose))
    for paragraph in paragraphs(prose):
        for i, sentence in enumerate(paragraph):
            if _MIN_WORDS <= len(words(sentence)) <= _MAX_WORDS and not sentence.endswith(("?", "？", ":", "：")):
                begin = i
                while begin > max(0, i - _MAX_BEFORE) and _REFERS_BACK.match(paragraph[begin]):
                    begin -= 1
                nearby = paragraph[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1]
                fact = Fact(sentence, " ".join(paragraph[begin : i + 1]), tuple(nearby), names)
                found.setdefault(sentence, fact)
    return tuple(found.values())


def background(fact: Fact) -> str:
    """Up to three sentences before a fact that say what its pronouns stand for."""
    end = begin = fact.nearby.index(fact.sentence)
    while begin > max(0, end - _MAX_BACKGROUND) and _PRONOUN.search(fact.nearby[begin]):
        begin -= 1
    return " ".join(fact.nearby[begin:end])
