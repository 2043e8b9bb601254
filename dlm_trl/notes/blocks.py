"""Question/answer pairs and preference triples: the `###` headers inside instruction and preference sections.

A header is a line of only `### Q`, `### A`, … and white space. Lines end where `str.splitlines` ends them (also at form
feeds and U+2028), and headers in code blocks count. A body runs to the next header, is stripped, and must not be empty.
"""

from __future__ import annotations

import re
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from dlm_trl.notes.errors import DocumentError, InstructionParseError, PreferenceParseError


class Pair(NamedTuple):
    """A question and its answer, with the file lines of their headers."""

    question: str
    answer: str
    line: int
    answer_line: int


class Triple(NamedTuple):
    """A prompt with its chosen and rejected answers; line is the file line of the `### Prompt` header."""

    prompt: str
    chosen: str
    rejected: str
    line: int


# Any character except line breaks and (rare) controls. Ranges in this order match faster than a negated class.
_TEXT = r"[ -\x84\x86-\u2027\u202a-\U0010ffff\t]"
_PAIR = ("Q", "A")
_TRIPLE = ("Prompt", "Chosen", "Rejected")


def _short(labels: tuple[str, ...]) -> re.Pattern[str]:
    """A fast path: a pattern for a whole pair or triple whose bodies are one line each, as most are."""
    blocks = "\n".join(rf"### {label}\n([^\s#]{_TEXT}*)" for label in labels)
    return re.compile(rf"{blocks}(\n+|\Z)")


_SHORT_PAIR, _SHORT_TRIPLE = _short(_PAIR), _short(_TRIPLE)
# These start with the line break before the header, because searching for it is faster than for a line start.
_PAIR_HEADER = re.compile(r"\n[^\S\n]*### (Q|A)(?:(?<=Q) !probe)?[^\S\n]*(?=\n|\Z)")
_TRIPLE_HEADER = re.compile(r"\n[^\S\n]*### (Prompt|Chosen|Rejected)[^\S\n]*(?=\n|\Z)")


def read_pairs(content: str, content_line: int, path: Path | None = None) -> list[Pair]:
    """The pairs in the content of an instruction section, which starts at file line content_line.

    Raises DlmError (InstructionParseError) if the content is malformed.
    """
    pairs, at, end, line = [], 0, len(content), content_line
    while at < end and (short := _SHORT_PAIR.match(content, at)):
        question, answer, blanks = short.groups()
        pairs.append(Pair(question.rstrip(), answer.rstrip(), line, line + 2))
        at, line = short.end(), line + 3 + len(blanks)
    return pairs if pairs and at == end else _long_pairs(content, content_line, path)


def read_triples(content: str, content_line: int, path: Path | None = None) -> list[Triple]:
    """The triples in the content of a preference section, which starts at file line content_line.

    Raises DlmError (PreferenceParseError) if the content is malformed.
    """
    triples, at, end, line = [], 0, len(content), content_line
    while at < end and (short := _SHORT_TRIPLE.match(content, at)):
        prompt, chosen, rejected, blanks = short.groups()
        triples.append(Triple(prompt.rstrip(), chosen.rstrip(), rejected.rstrip(), line))
        at, line = short.end(), line + 5 + len(blanks)
    return triples if triples and at == end else _long_triples(content, content_line, path)


def _long_pairs(content: str, content_line: int, path: Path | None) -> list[Pair]:
    """`read_pairs` without the fast path."""
    before, *parts = _PAIR_HEADER.split(_lines(content))
    line = content_line + before.count("\n")
    pairs = []
    for i in range(0, len(parts) - 3, 4):
        first, question, second, answer = parts[i : i + 4]
        answer_line = line + question.count("\n") + 1
        pair = Pair(question.strip(), answer.strip(), line, answer_line)
        if (first, second) != _PAIR or "" in pair:
            break
        pairs.append(pair)
        line = answer_line + answer.count("\n") + 1
    if not pairs or len(parts) != 4 * len(pairs) or before.strip():
        raise _error(InstructionParseError, _PAIR, before, parts, content_line, path)
    return pairs


def _long_triples(content: str, content_line: int, path: Path | None) -> list[Triple]:
    """`read_triples` without the fast path."""
    before, *parts = _TRIPLE_HEADER.split(_lines(content))
    line = content_line + before.count("\n")
    triples = []
    for i in range(0, len(parts) - 5, 6):
        first, prompt, second, chosen, third, rejected = parts[i : i + 6]
        triple = Triple(prompt.strip(), chosen.strip(), rejected.strip(), line)
        if (first, second, third) != _TRIPLE or "" in triple:
            break
        triples.append(triple)
        line += prompt.count("\n") + chosen.count("\n") + rejected.count("\n") + 3
    if not triples or len(parts) != 6 * len(triples) or before.strip():
        raise _error(PreferenceParseError, _TRIPLE, before, parts, content_line, path)
    return triples


def _lines(content: str) -> str:
    """The content with every line break as LF, and one more at the start."""
    return "\n" + "\n".join(content.splitlines())


def _error(
    failure: type[DocumentError],
    order: tuple[str, ...],
    before: str,
    parts: list[str],
    content_line: int,
    path: Path | None,
) -> DocumentError:
    """The first problem; parts alternates labels and texts, and the labels should repeat `order`."""

    def error(message: str, hint: str, line: int) -> DocumentError:
        section_line = line - content_line + 1
        return failure(message, hint, path=path, line=line, column=1, section_line=section_line)

    if stray := before.lstrip():
        line = content_line - 1 + before.count("\n", 0, len(before) - len(stray))
        return error(f"There is text before the first `### {order[0]}`.", "A header must be alone on its line.", line)
    if not parts:
        return error("The section is empty.", f"Write a `### {order[0]}` header, or remove the section.", content_line)
    line = content_line + before.count("\n")
    for expected, label, text in zip(cycle(order), parts[::2], parts[1::2], strict=False):
        if label != expected:
            hint = f"The order is {', '.join(order)}."
            return error(f"Expected `### {expected}`, but found `### {label}`.", hint, line)
        line += text.count("\n") + 1
        if not text.strip():
            return error(f"`### {label}` has no text.", "Write it, or remove the block.", line)
    missing = order[len(parts) // 2 % len(order)]
    return error(f"`### {missing}` is missing at the end.", "Write it, or remove the unfinished block.", line)
