"""Question/answer pairs and preference triples: the `###` headers inside an instruction or a preference section.

A header is a line that holds nothing but `### Q`, `### A`, … and white space. Lines end wherever `str.splitlines` ends
them (form feed and U+2028 too), and code blocks hide no header. A body runs to the next header, is stripped, and must
not be empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dlm_trl.notes.errors import DlmError

_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_BLANKS = rf"[^\S{_BREAKS}]*"


def _headers(labels: str) -> re.Pattern[str]:
    return re.compile(rf"### ({labels}){_BLANKS}(?=[{_BREAKS}]|\Z)")


_PAIR = _headers("Q(?: !probe)?|A")
_TRIPLE = _headers("Prompt|Chosen|Rejected")
_UNUSUAL_BREAK = re.compile(rf"[{_BREAKS[1:]}]")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer; line and answer_line are the file lines of their headers."""

    question: str
    answer: str
    line: int
    answer_line: int


@dataclass(frozen=True, slots=True)
class Triple:
    """A prompt with its chosen and its rejected answer; line is the file line of the `### Prompt` header."""

    prompt: str
    chosen: str
    rejected: str
    line: int


def read_pairs(content: str, content_line: int, path: Path | None = None) -> list[Pair]:
    """The pairs in an instruction section whose content begins at file line content_line."""
    blocks = _blocks(content, content_line, path, _PAIR, ("Q", "A"), "InstructionParseError")
    return [Pair(q, a, q_line, a_line) for (q, q_line), (a, a_line) in zip(blocks[::2], blocks[1::2], strict=True)]


def read_triples(content: str, content_line: int, path: Path | None = None) -> list[Triple]:
    """The triples in a preference section whose content begins at file line content_line."""
    blocks = _blocks(content, content_line, path, _TRIPLE, ("Prompt", "Chosen", "Rejected"), "PreferenceParseError")
    parts = zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True)
    return [Triple(p, c, r, line) for (p, line), (c, _), (r, _) in parts]


def _blocks(
    content: str, content_line: int, path: Path | None, pattern: re.Pattern[str], cycle: tuple[str, ...], kind: str
) -> list[tuple[str, int]]:
    """All bodies with the file line of their header, in order; the labels must follow cycle, over and over."""

    def fail(message: str, hint: str, at: int) -> DlmError:
        section_line = len(content[:at].splitlines()) + 1
        line = content_line - 1 + section_line
        return DlmError(
            kind=kind, message=message, hint=hint, path=path, line=line, column=1, section_line=section_line
        )

    headers = [(start, m) for m in pattern.finditer(content) if (start := _line_start(content, m.start())) is not None]
    before = content[: headers[0][0]] if headers else content
    if text := before.lstrip():
        at = _line_start(content, len(before) - len(text))
        assert at is not None
        raise fail(f"Text stands before the first `### {cycle[0]}`.", "A header stands alone on its line.", at)
    if not headers:
        raise fail("The section is empty.", f"Write a `### {cycle[0]}` header, or remove the section.", 0)

    unusual = _UNUSUAL_BREAK.search(content) is not None
    blocks: list[tuple[str, int]] = []
    line, counted = content_line, 0
    for i, (start, m) in enumerate(headers):
        label, expected = m[1].removesuffix(" !probe"), cycle[i % len(cycle)]
        if label != expected:
            raise fail(
                f"`### {label}` stands where `### {expected}` should.", f"The order is {', '.join(cycle)}.", start
            )
        end = headers[i + 1][0] if i + 1 < len(headers) else len(content)
        body = content[m.end() : end].strip()
        if not body:
            raise fail(f"`### {label}` has no text.", "Write it, or remove the block.", end)
        line += len(content[counted:start].splitlines()) if unusual else content.count("\n", counted, start)
        counted = start
        blocks.append((body, line))
    if len(blocks) % len(cycle):
        missing = cycle[len(blocks) % len(cycle)]
        raise fail(f"`### {missing}` is missing at the end.", "Write it, or remove the unfinished block.", len(content))
    return blocks


def _line_start(content: str, at: int) -> int | None:
    """Where the line of this offset begins, or None if something other than white space stands before it there."""
    while at and content[at - 1] not in _BREAKS:
        at -= 1
        if not content[at].isspace():
            return None
    return at
