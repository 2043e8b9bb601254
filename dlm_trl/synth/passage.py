"""Where in the prose a pair came from: `passage(item, section)` finds its sentence, and `shorten` fits it to a width.

sources = prose_by_id(document)
for item in staged(document):
    found = passage(item, sources[item.source_section_id])
    if found: print(found.line, found.sentence)
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from dlm_trl.asking.facts import facts
from dlm_trl.notes import Document, Section
from dlm_trl.notes.sentences import paragraphs, sentence_lines
from dlm_trl.synth.matching import Matcher
from dlm_trl.synth.staging import Staged

_LONG_WORD = 30  # characters


class Passage(NamedTuple):
    """A sentence of the prose, with its file line and what its paragraph says before and after it."""

    line: int
    before: str
    sentence: str
    after: str


def passage(item: Staged, section: Section) -> Passage | None:
    """The passage of the prose that a pair came from, or None if its answer isn't from the prose."""
    sentence = _source_sentence(item, section.content)
    for paragraph, lines in _paragraphs(section.content):
        if sentence in paragraph:
            i = paragraph.index(sentence)
            line = section.content_line + lines[i]
            return Passage(line, " ".join(paragraph[:i]), sentence, " ".join(paragraph[i + 1 :]))
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
    """The sentence that the pair asks about, or None; found by its words in a pair of an earlier version.

    None, too, if the answer isn't meant to be from the prose.
    """
    if item.strategy != "extraction":
        return None
    if item.facts:
        return item.facts[0]
    if any(item.pair.answer in paragraph for paragraph, _ in _paragraphs(prose)):
        return item.pair.answer
    return next((fact.sentence for fact in _matcher(prose).match(*item.pair)), None)


@lru_cache(maxsize=4)
def _paragraphs(prose: str) -> list[tuple[list[str], list[int]]]:
    """The sentences of each paragraph, and the line of the prose in which each starts."""
    lines = iter(sentence_lines(prose))
    return [(paragraph, [next(lines) for _ in paragraph]) for paragraph in paragraphs(prose)]


@lru_cache(maxsize=4)
def _matcher(prose: str) -> Matcher:
    return Matcher(facts(prose))


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
