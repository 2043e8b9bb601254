"""Which sentences of a document its pairs ask about: `coverage(document, staged(document))`.

    found = coverage(document, staged(document))
    print(found.totals, found.uncovered())
    for pair in found.gone: print(pair.section_id, pair.question)

A synthesised pair knows the sentences it asks about. Those of a pair that a person wrote or edited are found by its
words. A pair is gone when a sentence that it asks about was edited or removed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dlm_trl.asking.facts import Fact, facts
from dlm_trl.notes import Document, Section
from dlm_trl.rows.views import ProseView, line_of_each
from dlm_trl.synth.matching import Matcher
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.staging import Staged, applied

OWN = "own"
_TITLE = 40  # characters


class Asking(NamedTuple):
    """A pair that asks about sentences.

    section_id: of its own section. kind: `own` if a person wrote it, else its strategy, or the kind of a view. line: in
    the file, None for a staged pair.
    """

    section_id: str
    kind: str
    line: int | None
    question: str


class Sentence(NamedTuple):
    """A sentence of the prose, the file line in which it starts, and the pairs that ask about it.

    texts: the kinds of the prose views about it.
    """

    line: int
    text: str
    pairs: tuple[Asking, ...]
    texts: tuple[str, ...] = ()

    @property
    def views(self) -> Counter[str]:
        """How many views of each kind there are; a pair that isn't a reverse question counts as a question."""
        asking = ("reverse" if pair.kind == "reverse" else "question" for pair in self.pairs)
        return Counter([*asking, *self.texts])


class CoveredSection(NamedTuple):
    """A section of prose. title: its heading or first words. sentences: at least one."""

    line: int
    title: str
    sentences: tuple[Sentence, ...]


class Totals(NamedTuple):
    """How many sentences there are, how many are asked about, how many by `own` pairs, and how many pairs are gone."""

    sentences: int
    asked_about: int
    own: int
    gone: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """The sentences of a document, each with the pairs that ask about it, and the synthesised pairs that are gone."""

    sections: tuple[CoveredSection, ...]
    gone: tuple[Asking, ...]

    @property
    def sentences(self) -> list[Sentence]:
        return [sentence for section in self.sections for sentence in section.sentences]

    @property
    def totals(self) -> Totals:
        kinds = [{pair.kind for pair in sentence.pairs} for sentence in self.sentences]
        return Totals(len(kinds), sum(map(bool, kinds)), sum(OWN in each for each in kinds), len(self.gone))

    def uncovered(self, ignoring: Collection[str] = ()) -> set[str]:
        """The sentences that nothing asks about. ignoring: ids of pairs that don't count."""
        return {s.text for s in self.sentences if all(pair.section_id in ignoring for pair in s.pairs)}


def coverage(document: Document, staged: Sequence[Staged], views: Sequence[ProseView] = ()) -> Coverage:
    """What the pairs in the document, these staged ones, and these prose views are about.

    A sentence that occurs twice has the same pairs both times. Raises DlmError: InstructionParseError for a malformed
    section, StagingError.
    """
    sections = [section for section in document.sections if section.kind == "prose"]
    prose = [(section, facts(section.content), line_of_each(section)) for section in sections]
    matcher = Matcher([fact for _, found, _ in prose for fact in found])
    known = {fact.sentence for _, found, _ in prose for fact in found}
    sources = _positions(prose)
    asking: dict[str, list[Asking]] = defaultdict(list)
    lines = {}
    for section in document.sections:
        for pair in section.pairs():
            lines[section.bare_id, pair.question] = pair.line
            if not section.auto_synth:
                for fact in matcher.match(pair.question, pair.answer):
                    asking[fact.sentence].append(Asking(section.bare_id, OWN, pair.line, pair.question))
    gone = []
    in_file = [(item, lines[item.section_id, item.pair.question]) for item in applied(document)]
    for item, line in [*in_file, *((item, None) for item in staged)]:
        own = Asking(item.section_id, item.kind or item.strategy, line, item.pair.question)
        source = sources.get(item.source_section_id)
        about = item.facts or _sentences(matcher, item.pair, source)
        if not known.issuperset(about) or (not about and source is None):
            gone.append(own)
            continue
        for sentence in about:
            asking[sentence].append(own)
    texts: dict[str, list[str]] = defaultdict(list)
    for view in views:
        for sentence in view.facts:
            texts[sentence].append(view.kind)
    covered = (_covered(section, found, lines, asking, texts) for section, found, lines in prose if found)
    return Coverage(tuple(covered), tuple(gone))


def line_and_title(section: Section) -> tuple[int, str]:
    """The file line of a section's first text, and its heading or first words."""
    text = section.content.lstrip()
    title = text.partition("\n")[0].lstrip("#").strip()
    short = title if len(title) <= _TITLE else f"{title[:_TITLE].rsplit(' ', 1)[0]}…"
    return section.content_line + section.content[: -len(text)].count("\n"), short


def _positions(prose: Sequence[tuple[Section, Sequence[Fact], Mapping[str, int]]]) -> dict[str, range]:
    """For each id of a section, the positions of its sentences among all."""
    positions: dict[str, range] = {}
    begin = 0
    for section, found, _ in prose:
        positions |= dict.fromkeys(section.names, range(begin, begin + len(found)))
        begin += len(found)
    return positions


def _sentences(matcher: Matcher, pair: QAPair, source: range | None) -> tuple[str, ...]:
    """The sentences that a pair asks about by its words, in its source if there are any."""
    found = matcher.match(pair.question, pair.answer, source) if source else []
    return tuple(fact.sentence for fact in found or matcher.match(pair.question, pair.answer))


def _covered(
    section: Section,
    found: Sequence[Fact],
    lines: Mapping[str, int],
    asking: Mapping[str, Sequence[Asking]],
    texts: Mapping[str, Sequence[str]],
) -> CoveredSection:
    return CoveredSection(
        *line_and_title(section),
        tuple(
            Sentence(lines[f.sentence], f.sentence, tuple(asking.get(f.sentence, ())), tuple(texts.get(f.sentence, ())))
            for f in found
        ),
    )
