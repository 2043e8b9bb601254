"""Where in the prose a pair came from: `passage(item, section)` finds its sentence, and `shorten` fits it to a width.

sources = prose_by_id(document)
for item in staged(document):
    found = passage(item, sources[item.source_section_id])
    if found: print(found.line, found.sentence)
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from dlm_trl.notes import Document, Section
from dlm_trl.notes.sentences import paragraphs
from dlm_trl.synth.staging import Staged
from dlm_trl.synth.words import content_words

_LONG_WORD = 30  # characters
_BETWEEN_WORDS = r"\s+(?:>\s*)?"  # the rest of a quote may begin with its mark


class Passage(NamedTuple):
    """A sentence of the prose, with its file line and what its paragraph says before and after it."""

    line: int
    before: str
    sentence: str
    after: str


def passage(item: Staged, section: Section) -> Passage | None:
    """The passage of the prose that a pair came from, or None if its answer isn't from the prose."""
    sentence = _source_sentence(item, section.content)
    for paragraph in _paragraphs(section.content):
        if sentence in paragraph:
            i = paragraph.index(sentence)
            return Passage(_line(sentence, section), " ".join(paragraph[:i]), sentence, " ".join(paragraph[i + 1 :]))
    return None


def prose_by_id(document: Document) -> dict[str, Section]:
    """The document's prose by each id that a pair may refer to it by.

    Trailing blank lines are part of a section's id and change when text is added after it, so a section also has the
    ids that it would have with none or one of them.
    """
    prose = [section for section in document.sections if section.kind == "prose"]
    similar = {name: section for section in reversed(prose) for name in section.names}
    return similar | {section.section_id: section for section in reversed(prose)}


def shorten(found: Passage, width: int, sentence_width: int | None = None) -> Passage:
    """The passage in up to `width` characters, its sentence in up to `sentence_width` of them (default: all).

    The sentence loses its middle, and the text around it what is far from the sentence.
    """
    sentence = found.sentence
    limit = width if sentence_width is None else min(width, sentence_width)
    if len(sentence) > limit:
        half = (limit - len(" … ")) // 2
        sentence = f"{_first_words(sentence, half)} … {_last_words(sentence, half)}".strip()
    room = width - len(sentence)
    # A side that needs less than half leaves the rest to the other.
    room_after = max(room // 2, room - len(found.before))
    room_before = room - min(room_after, len(found.after))
    before, after = found.before, found.after
    if len(before) > room_before:
        before = f"… {_last_words(before, room_before - 2)}".strip() if room_before else ""
    if len(after) > room_after:
        after = f"{_first_words(after, room_after - 2)} …".strip() if room_after else ""
    return Passage(found.line, before, sentence, after)


def _source_sentence(item: Staged, prose: str) -> str | None:
    """The sentence that is the answer, or shares most words with it; of several, the one with most of the question's.

    None if the answer shares no words with the prose, or isn't meant to.
    """
    if item.strategy != "extraction":
        return None
    asked, answered = content_words(item.pair.question), content_words(item.pair.answer)
    best, nearest = (0, 0), None
    for sentence, words in _sentence_words(prose):
        if sentence == item.pair.answer:
            return sentence
        shared = len(answered & words), len(asked & words)
        if shared[0] and shared > best:
            best, nearest = shared, sentence
    return nearest


@lru_cache(maxsize=4)
def _paragraphs(prose: str) -> list[list[str]]:
    return paragraphs(prose)


@lru_cache(maxsize=4)
def _sentence_words(prose: str) -> list[tuple[str, set[str]]]:
    return [(sentence, content_words(sentence)) for paragraph in _paragraphs(prose) for sentence in paragraph]


def _line(sentence: str, section: Section) -> int:
    """The file line where the sentence begins."""
    found = re.search(_BETWEEN_WORDS.join(map(re.escape, sentence.split())), section.content)
    return section.content_line + (section.content.count("\n", 0, found.start()) if found else 0)


def _first_words(text: str, width: int) -> str:
    """As many words of the beginning as fit; as many characters in a script without spaces."""
    if width <= 0:
        return ""
    has_words = " " in text[width : width + _LONG_WORD] or len(text) <= width + _LONG_WORD
    words = text[: width + 1].rpartition(" ")[0] if len(text) > width else text
    return words if words or has_words else text[:width]


def _last_words(text: str, width: int) -> str:
    """As many words of the end as fit; as many characters in a script without spaces."""
    return _first_words(text[::-1], width)[::-1]
