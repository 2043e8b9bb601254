"""The pairs of a document with their prose, for `synth list`: `rows = listed(document)`, then `blocks`, `table` or
`as_plain`.

In a terminal, a pair is a block under its section; in a pipe it is a line; in JSON it has its whole prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, zip_longest
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dlm_trl.notes import Document, Section
from dlm_trl.notes.escape import printable, redact
from dlm_trl.synth.explain import SCORES, numbers
from dlm_trl.synth.passage import Passage, passage, prose_by_id, shorten
from dlm_trl.synth.staging import Staged, applied, staged

_ID = 8  # characters
_AROUND = 100  # characters of prose, at least
_FIRST_SCORES = ("margin", "grounding")  # these columns came first, and programs count columns


State = Literal["applied", "staged", "rejected"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A pair, its prose (None if that was edited or removed), and the sentence in it that the answer comes from."""

    item: Staged
    state: State
    section: Section | None
    found: Passage | None


def listed(document: Document) -> list[Listed]:
    """The applied and staged pairs in the order of their sentences in the file. Raises as `applied` and `staged` do."""
    return located(document, {"applied": applied(document), "staged": staged(document)})


def located(document: Document, states: Mapping[State, Sequence[Staged]]) -> list[Listed]:
    """The pairs in these states in the order of their sentences in the file."""
    prose = prose_by_id(document)
    rows = []
    for state, items in states.items():
        for item in items:
            section = prose.get(item.source_section_id)
            rows.append(Listed(item, state, section, passage(item, section) if section else None))
    return sorted(rows, key=_position)


def _position(row: Listed) -> tuple[int, int, int]:
    if row.section is None:
        return 2**63, 0, 0
    place = (row.found.line, len(row.found.before)) if row.found else (2**63, 0)
    return (row.section.start_line, *place)


def as_plain(rows: Sequence[Listed], state: str) -> list[dict[str, Any]]:
    """The pairs in this state, with all that is known of them, for JSON."""
    return [
        asdict(row.item)
        | {
            "line": row.found.line if row.found else None,
            "sentence": row.found.sentence if row.found else None,
            "prose": row.section.content.strip() if row.section else None,
        }
        for row in rows
        if row.state == state
    ]


def table(rows: Sequence[Listed]) -> Table:
    """A row for each pair."""
    more = [name for name in SCORES if name not in _FIRST_SCORES]
    result = Table(
        "id", "state", "teacher", "strategy", *_FIRST_SCORES, "question", "answer", "line", "sentence", *more
    )
    for row in rows:
        scores = numbers(row.item.scores)
        cells = [
            row.item.section_id[:_ID],
            row.state,
            redact(row.item.teacher),
            row.item.strategy,
            *(scores.get(name, "") for name in _FIRST_SCORES),
            *row.item.pair,
            str(row.found.line) if row.found else "",
            row.found.sentence if row.found else "",
            *(scores.get(name, "") for name in more),
        ]
        result.add_row(*(Text(printable(cell)) for cell in cells))
    return result


def blocks(rows: Sequence[Listed], width: int) -> RenderableType:
    """A block for each pair: question, answer, its sentence in brackets with what is around it, and the scores."""
    origins = {_origin(row.item) for row in rows}
    parts: list[RenderableType] = [Text(f"All by {printable(origin)}.\n") for origin in origins if len(origins) == 1]
    for section, of_section in groupby(rows, key=lambda row: row.section):
        parts += [_heading(section, width), *(_block(row, width, len(origins) > 1) for row in of_section)]
    return Group(*parts)


def _origin(item: Staged) -> str:
    return f"{redact(item.teacher)}, {item.strategy}"


def _heading(section: Section | None, width: int) -> Text:
    """The section's line with its own heading, or else its first words."""
    if section is None:
        return Text("Prose no longer in the document", style="bold")
    first, _, rest = section.content.strip().partition("\n")
    title = first.lstrip("# ") if first.startswith("#") else f"{first} {rest[:width]}"
    heading = Text(f"Line {section.content_line}: {' '.join(printable(title).split())}", style="bold")
    heading.truncate(width, overflow="ellipsis")
    return heading


def _block(row: Listed, width: int, with_origin: bool) -> Table:
    block = Table.grid(Column(width=_ID), Column(width=width - _ID - 2), padding=(0, 2, 0, 0))
    left = [Text(row.item.section_id[:_ID], style="cyan"), Text(row.state, style="dim")]
    right = [*_texts(row, width - _ID - 2, with_origin), Text()]
    for label, text in zip_longest(left, right, fillvalue=Text()):
        block.add_row(label, text)
    return block


def _texts(row: Listed, width: int, with_origin: bool) -> Iterator[Text]:
    question, answer = (" ".join(printable(text).split()) for text in row.item.pair)
    yield Text(question, style="bold")
    yield Text(answer)
    if row.found:
        is_answer = row.found.sentence == answer  # and has just been printed
        room = max(width, _AROUND) - len(f"line {row.found.line}: []  ")
        near = shorten(row.found, room, room // 3) if is_answer else shorten(row.found, width + room)
        before, sentence, after = map(printable, near[1:])
        marked = (f"[{sentence}]", "" if is_answer else "underline")
        yield Text.assemble(f"line {near.line}: {before}".rstrip(" "), " ", marked, " ", after, style="dim")
    scores = [f"{name}\N{NO-BREAK SPACE}{value}" for name, value in numbers(row.item.scores).items()]
    mark = ["edited"] if row.item.edited_from else []
    last = [*scores, *mark, *([_origin(row.item)] if with_origin else [])]
    if last:
        yield Text(printable("  ".join(last)), style="dim")
