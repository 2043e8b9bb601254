"""The questions that `synth preference` asks: those of the document's pairs, each with the prose that answers it.

for question in questions(document, skipped := {}): print(question.text, question.prose)
print(skipped)                       # {"held out for validation": 3}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dlm_trl.asking.facts import Fact, facts
from dlm_trl.asking.words import words
from dlm_trl.notes import Document, Section
from dlm_trl.rows.split import VALIDATION_FRACTION
from dlm_trl.synth.leak import validation_questions
from dlm_trl.synth.matching import Matcher
from dlm_trl.synth.passage import prose_by_id
from dlm_trl.synth.preference_staging import staged_preferences

_LONG = 4_000  # characters of a section, from which on the teacher reads only what is near the sentence


class Question(NamedTuple):
    """A question of the document and the prose that answers it. section_id: of the prose."""

    text: str
    line: int
    prose: str
    section_id: str
    adapter: str | None


def questions(document: Document, skipped: dict[str, int] | None = None) -> list[Question]:
    """The questions to ask, in file order. skipped: gets the number of those that aren't asked, by reason.

    A synthesised pair names its prose; for others it's the section with the sentence that shares most words with
    question and answer.
    """
    skipped = {} if skipped is None else skipped
    by_id = prose_by_id(document)
    found = [(fact, s) for s in document.sections if s.kind == "prose" for fact in facts(s.content)]
    section_of: dict[str, Section] = {}
    for fact, section in found:
        section_of.setdefault(fact.sentence, section)
    matcher = Matcher([fact for fact, _ in found])
    held_out = set(validation_questions(document, VALIDATION_FRACTION, document.frontmatter.training.seed))
    known = {_plain(t.prompt) for s in document.sections for t in s.triples()}
    known |= {_plain(item.prompt) for item in staged_preferences(document)}
    asked: dict[tuple[str, ...], Question] = {}
    for section in document.sections:
        for pair in section.pairs():
            about = matcher.match(pair.question, pair.answer)
            source = by_id.get(str(section.provenance.get("source_section_id")))
            source = source or (section_of[about[0].sentence] if about else None)
            if pair.question in held_out:
                reason = "held out for validation"
            elif _plain(pair.question) in known:
                reason = "has a preference already"
            elif _plain(pair.question) in asked:
                reason = "asked twice"
            elif source is None:
                reason = "no sentence of the prose is about it"
            else:
                prose = _read(source, about)
                asked[_plain(pair.question)] = Question(
                    pair.question, pair.line, prose, source.section_id, section.adapter
                )
                continue
            skipped[reason] = skipped.get(reason, 0) + 1
    return list(asked.values())


def _read(section: Section, about: Sequence[Fact]) -> str:
    """What of a section the teacher and the judge read: all of it, or what is near the fact."""
    if len(section.content) <= _LONG or not about:
        return section.content.strip()[:_LONG]
    near = next((fact for fact in about if fact.sentence in section.content), None)
    return " ".join(near.nearby) if near else section.content.strip()[:_LONG]


def _plain(question: str) -> tuple[str, ...]:
    """A question's words, to compare it with others."""
    return tuple(words(question))
