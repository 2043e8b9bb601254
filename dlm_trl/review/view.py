"""What the page shows, as plain data for JSON: `page(review)` is all of it, `pair_fields` one pair.

Text is sent as it is in the document; the page never interprets it as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from dlm_trl.notes import Document, Section
from dlm_trl.notes.escape import redact
from dlm_trl.notes.sentences import paragraphs
from dlm_trl.review.decisions import Review
from dlm_trl.rows.views import line_of_each
from dlm_trl.synth.coverage import OWN, coverage, line_and_title
from dlm_trl.synth.explain import CHECKS, SCORES, checks_of, scores_of
from dlm_trl.synth.listing import Listed, State, located
from dlm_trl.synth.passage import passage, prose_by_id
from dlm_trl.synth.rejected import DROPPED, Rejected, rejected
from dlm_trl.synth.staging import Staged, applied, staged


@dataclass(frozen=True, slots=True)
class Prose:
    """The prose of a document, by which its pairs are shown.

    sections: the prose sections. sentences: the number of each sentence, and homes the section that it is in first.
    by_id: sections by each id that they have or had. numbers: of the sections, by their first line.
    """

    sections: list[Section]
    sentences: dict[str, int]
    homes: dict[str, Section]
    by_id: Mapping[str, Section]
    numbers: dict[int, int]


def read_prose(document: Document) -> Prose:
    """The prose of this document."""
    sections = [section for section in document.sections if section.kind == "prose"]
    homes: dict[str, Section] = {}
    for section in sections:
        for sentence in (text for paragraph in paragraphs(section.content) for text in paragraph):
            homes.setdefault(sentence, section)
    numbers = {section.start_line: i for i, section in enumerate(sections)}
    return Prose(sections, {text: i for i, text in enumerate(homes)}, homes, prose_by_id(document), numbers)


def page(review: Review) -> dict[str, Any]:
    """Everything: the prose with its sentences, and the pairs in all states, in the order of their sentences."""
    document = review.document
    prose = read_prose(document)
    lost = {each.item.section_id: each for each in rejected(document)}
    states: dict[State, Sequence[Staged]] = {
        "staged": staged(document),
        "applied": applied(document),
        "rejected": [each.item for each in lost.values()],
    }
    rows = located(document, states)
    found = coverage(document, [row.item for row in rows if row.state != "applied"])
    asked: dict[str, list[int]] = {}
    for sentence in found.sentences:
        for pair in sentence.pairs:
            asked.setdefault(pair.section_id, []).append(prose.sentences[sentence.text])
    own = [prose.sentences[s.text] for s in found.sentences if any(pair.kind == OWN for pair in s.pairs)]
    pairs = [
        {**_fields(row, prose, lost.get(row.item.section_id)), "asks": asked.get(row.item.section_id, [])}
        for row in rows
    ]
    return {
        "name": document.path.name if document.path else "",
        "path": str(document.path),
        "version": review.version,
        "undo": review.last.question if review.last else None,
        "scores": SCORES,
        "checks": CHECKS,
        "sections": [_section(section, prose) for section in prose.sections],
        "facts": sorted({prose.sentences[sentence.text] for sentence in found.sentences}),
        "own": sorted(set(own)),
        "pairs": sorted(pairs, key=_position),
    }


def pair_fields(item: Staged, state: State, prose: Prose, lost: Rejected | None = None) -> dict[str, Any]:
    """One pair with its scores, its reasons, and the numbers of its section and of the sentences that it asks about."""
    section = prose.by_id.get(item.source_section_id)
    return _fields(Listed(item, state, section, passage(item, section) if section else None), prose, lost)


def _position(pair: dict[str, Any]) -> tuple[float, float]:
    """Of a pair's sentence in the document; those without any come last, in their section or at all."""
    return inf if pair["section"] is None else pair["section"], pair["marks"][0] if pair["marks"] else inf


def _fields(row: Listed, prose: Prose, lost: Rejected | None) -> dict[str, Any]:
    item = row.item
    section, marks, line = row.section, _marked(row), row.found.line if row.found else None
    if section is None and item.facts and item.facts[0] in prose.homes:  # edited around the sentence
        section, marks = prose.homes[item.facts[0]], list(item.facts)
        line = line_of_each(section)[marks[0]]
    values = {name: getattr(item.scores, name) for name in SCORES} if item.scores else {}
    return {
        "id": item.section_id,
        "state": row.state,
        "question": item.pair.question,
        "answer": item.pair.answer,
        "editedFrom": list(item.edited_from) if item.edited_from else None,
        "teacher": redact(item.teacher),
        "kind": item.kind or item.strategy,
        "at": item.synth_at,
        "adapter": item.adapter,
        "section": prose.numbers[section.start_line] if section else None,
        "isEdited": row.section is None,
        "line": line,
        "marks": [prose.sentences[text] for text in marks if text in prose.sentences],
        "scores": [
            {"name": s.name, "shown": s.shown, "verdict": s.verdict, "value": _finite(values[s.name])}
            for s in scores_of(item)
        ],
        "runnerUp": item.scores.runner_up if item.scores else None,
        "checks": checks_of(item, row.section) if item.request_key and not lost else [],
        "stage": lost.stage if lost else None,
        "reason": lost.reason if lost else None,
        "dropped": bool(lost and lost.stage == DROPPED),
    }


def _marked(row: Listed) -> list[str]:
    """The sentences that a pair asks about, the main one first; none if its answer isn't meant to be from the prose."""
    if row.found is None:
        return []
    return list(dict.fromkeys([row.found.sentence, *row.item.facts]))


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _section(section: Section, prose: Prose) -> dict[str, Any]:
    """A section's text in parts: each is a sentence with its number, or what is between two sentences."""
    line, title = line_and_title(section)
    lines = line_of_each(section)
    parts: list[dict[str, Any]] = []
    end = 0
    for sentence in (text for paragraph in paragraphs(section.content) for text in paragraph):
        # The sign of a quote may be at the start of each of its lines.
        words = r"\s+(?:>\s?)?".join(map(re.escape, sentence.split()))
        if place := re.compile(words).search(section.content, end):
            if place.start() > end:
                parts.append({"text": section.content[end : place.start()]})
            parts.append({"text": place[0], "sentence": prose.sentences[sentence], "line": lines[sentence]})
            end = place.end()
    if end < len(section.content):
        parts.append({"text": section.content[end:]})
    return {"line": line, "title": title, "parts": parts}
