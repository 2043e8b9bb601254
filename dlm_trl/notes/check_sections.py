"""Everything that is wrong with the sections of a document: questions and answers, preferences, adapters, where pairs
came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from dlm_trl.notes.document import Section
from dlm_trl.notes.findings import Finding

_LABELS = {"instruction": ("Q", "A"), "preference": ("Prompt", "Chosen", "Rejected")}
_RULES = {"instruction": "InstructionParseError", "preference": "PreferenceParseError"}
_NEAR_HEADER = {
    "instruction": re.compile(
        r"#{1,6}\s*(?:[QA]\s*(?:[:!].*)?|(?:Question|Answer)\s*(?:[:.].*)?|Q\s.*\?)", re.IGNORECASE
    ),
    "preference": re.compile(r"#{1,6}\s*(?:Prompt|Chosen|Rejected)\s*(?:[:.].*)?", re.IGNORECASE),
}
_NO_ROWS = "No rows can be made of the section, so the whole file fails when it is loaded."


class _Block(NamedTuple):
    """A `### …` header and what stands under it; label is empty for what stands before the first header."""

    label: str
    line: int
    text: str


def check_sections(
    sections: Iterable[Section], adapters: frozenset[str] | None, in_code: dict[int, bool], path: Path
) -> Iterator[Finding]:
    """All problems of these sections.

    adapters are the declared ones, None if they are not known; in_code tells for a line of the file whether it is code.
    """
    sections = list(sections)
    seen: dict[tuple[str | None, ...], int] = {}
    derived = any("source_section_id" in section.provenance for section in sections)
    known = {name for section in sections for name in section.names} if derived else set()
    for section in sections:
        if section.kind in _LABELS:
            blocks = list(_blocks(section))
            yield from _grammar(section, blocks, path)
            yield from _headers(section, in_code, path)
            yield from _repeated(section, blocks, seen, path)
            yield from _equal_sides(section, blocks, path)
        if section.adapter is not None and adapters is not None and section.adapter not in adapters:
            yield _undeclared(section, section.adapter, adapters, path)
        source = section.provenance.get("source_section_id")
        if source is not None and source not in known:
            message = f"No section of this file has the id {source}, which this one names as its source."
            why = "The source was edited or removed, so nobody can tell whether the pair still holds."
            fix = "Check the pair against the text as it is now, or remove it and synthesise it again."
            yield Finding(path, section.start_line, 0, "dangling-source", message, why, fix)


def _lines(section: Section) -> Iterator[tuple[int, str]]:
    """The lines as headers are looked for in them, each with its line of the file; several may share one."""
    line = section.content_line
    for text in section.content.splitlines(keepends=True):
        yield line, text
        line += text.endswith("\n")


def _blocks(section: Section) -> Iterator[_Block]:
    """The section cut at its headers, in whatever order they stand."""
    headers = {f"### {label}": label for label in _LABELS[section.kind]}
    if section.kind == "instruction":
        headers["### Q !probe"] = "Q"
    label, at, texts = "", section.content_line, list[str]()
    for line, text in _lines(section):
        if found := headers.get(text.strip()):
            yield _Block(label, at, "".join(texts).strip())
            label, at, texts = found, line, []
        else:
            texts.append(text)
    yield _Block(label, at, "".join(texts).strip())


def _grammar(section: Section, blocks: list[_Block], path: Path) -> Iterator[Finding]:
    """Every place where headers and texts do not follow each other as they must."""
    labels, rule = _LABELS[section.kind], _RULES[section.kind]
    order = _named(labels)
    before, *rest = blocks
    if before.text:
        line = next(line for line, text in _lines(section) if text.strip())
        message, fix = f"Text stands before the first `### {labels[0]}`.", f"Put it under a header: {order}."
        yield Finding(path, line, 1, rule, message, _NO_ROWS, fix)
    elif not rest:
        message, fix = "The section is empty.", f"Write {order}, or remove the section."
        yield Finding(path, section.start_line, 0, rule, message, _NO_ROWS, fix)
    expected = 0
    for label, line, text in rest:
        if label != labels[expected]:
            message = f"`### {label}` stands where `### {labels[expected]}` should."
            yield Finding(path, line, 1, rule, message, _NO_ROWS, f"Keep to the order {order}.")
        if not text:
            message, fix = f"`### {label}` is left empty.", "Write its text, or remove the whole pair."
            yield Finding(path, line, 1, rule, message, _NO_ROWS, fix)
        expected = (labels.index(label) + 1) % len(labels)
    if rest and expected:
        message = f"`### {labels[expected]}` is missing at the end of the section."
        yield Finding(path, rest[-1].line, 1, rule, message, _NO_ROWS, "Write it, or remove the unfinished part.")


def _headers(section: Section, in_code: dict[int, bool], path: Path) -> Iterator[Finding]:
    """Headers inside code, which cut the text all the same, and lines that only look like headers."""
    headers = {f"### {label}" for label in _LABELS[section.kind]} | {"### Q !probe"}
    for line, text in _lines(section):
        text = text.strip()
        if not text.startswith("#"):
            continue
        code = in_code.get(line, False)
        if text in headers and code:
            message = f"`{text}` stands inside a code block."
            why = "Code blocks hide no headers: the text is cut here."
            yield Finding(
                path, line, 1, "header-in-code", message, why, "Word it differently: the pair ends at this line."
            )
        elif text not in headers and not code and _NEAR_HEADER[section.kind].fullmatch(text):
            message = f"`{text[:40]}` looks like a header but is none."
            why = "The reader takes it for text of the part before."
            fix = f"Headers are {_named(_LABELS[section.kind])}, each alone on its line."
            yield Finding(path, line, 1, "near-header", message, why, fix)


def _named(labels: Iterable[str]) -> str:
    return ", ".join(f"`### {label}`" for label in labels)


def _groups(section: Section, blocks: list[_Block]) -> Iterator[tuple[_Block, ...]]:
    """The complete pairs or triples."""
    labels = _LABELS[section.kind]
    for i in range(len(blocks)):
        group = tuple(blocks[i : i + len(labels)])
        if tuple(block.label for block in group) == labels and all(block.text for block in group):
            yield group


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _repeated(
    section: Section, blocks: list[_Block], seen: dict[tuple[str | None, ...], int], path: Path
) -> Iterator[Finding]:
    for group in _groups(section, blocks):
        line = group[0].line
        first = seen.setdefault((section.kind, section.adapter, *(_plain(block.text) for block in group)), line)
        if first != line:
            message = f"This repeats line {first} word for word."
            why = "It is trained twice, and one copy may be held out to test the other."
            yield Finding(
                path, line, 1, "repeated-pair", message, why, "Remove one of the two, or word it differently."
            )


def _equal_sides(section: Section, blocks: list[_Block], path: Path) -> Iterator[Finding]:
    if section.kind == "preference":
        for _, chosen, rejected in _groups(section, blocks):
            if chosen.text.split() == rejected.text.split():
                message = "`### Chosen` and `### Rejected` are the same."
                why = "The reader accepts it, but there is nothing to prefer."
                yield Finding(path, rejected.line, 1, "equal-sides", message, why, "Change one, or remove the triple.")


def _undeclared(section: Section, name: str, adapters: frozenset[str], path: Path) -> Finding:
    message = f"The adapter `{name}` is not declared under training.adapters."
    if adapters:
        why = f"Declared are {', '.join(sorted(adapters))}, so the section would train none of them."
        close = get_close_matches(name, adapters, n=1)
        fix = f"Did you mean `#{close[0]}`?" if close else "Declare it, or use a declared name."
    else:
        why = "The document declares no adapters, so the name has no effect."
        fix = f"Declare `{name}` under training.adapters, or remove `#{name}` from the fence."
    return Finding(path, section.start_line, 1, "undeclared-adapter", message, why, fix)
