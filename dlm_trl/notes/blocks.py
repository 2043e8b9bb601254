"""Question/answer pairs and preference triples: the `###` headers inside an instruction or a preference section.

A header is a line that holds nothing but `### Q`, `### A`, … and white space. Lines end wherever `str.splitlines` ends
them (form feed and U+2028 too), and code blocks hide no header. A body runs to the next header, is stripped, and must
not be empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from dlm_trl.notes.errors import DlmError


def _headers(labels: str) -> re.Pattern[str]:
    return re.compile(rf"### ({labels})[^\S\n]*(?=\n|\Z)")


_PAIR = _headers("Q(?: !probe)?|A")
_TRIPLE = _headers("Prompt|Chosen|Rejected")


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
    text = "\n".join(content.splitlines())

    def fail(message: str, hint: str, section_line: int) -> DlmError:
        line = content_line - 1 + section_line
        return DlmError(
            kind=kind, message=message, hint=hint, path=path, line=line, column=1, section_line=section_line
        )

    headers = []
    for m in pattern.finditer(text):
        start = text.rfind("\n", 0, m.start()) + 1
        if not text[start : m.start()].strip():
            headers.append((start, m.end(), m[1].removesuffix(" !probe")))
    before = text[: headers[0][0]] if headers else text
    if stray := before.lstrip():
        line = 1 + before.count("\n", 0, len(before) - len(stray))
        raise fail(f"Text stands before the first `### {cycle[0]}`.", "A header stands alone on its line.", line)
    if not headers:
        raise fail("The section is empty.", f"Write a `### {cycle[0]}` header, or remove the section.", 1)

    blocks: list[tuple[str, int]] = []
    line = 1 + before.count("\n")
    for i, ((start, body, label), (stop, *_)) in enumerate(pairwise([*headers, (len(text), 0, "")])):
        expected = cycle[i % len(cycle)]
        if label != expected:
            order = ", ".join(cycle)
            raise fail(f"`### {label}` stands where `### {expected}` should.", f"The order is {order}.", line)
        blocks.append((text[body:stop].strip(), content_line - 1 + line))
        line += text.count("\n", start, stop)
        if not blocks[-1][0]:
            raise fail(f"`### {label}` has no text.", "Write it, or remove the block.", line + (stop == len(text)))
    if len(blocks) % len(cycle):
        missing = cycle[len(blocks) % len(cycle)]
        raise fail(f"`### {missing}` is missing at the end.", "Write it, or remove the unfinished block.", line + 1)
    return blocks
