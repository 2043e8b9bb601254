"""Check the sections of a document: questions and answers, preferences, adapters, and sources of synthesised pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from dlm_trl.notes.check_prose import looks_like_pair
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
_NO_ROWS = "The section can't be turned into rows, so loading the file fails."


class _Block(NamedTuple):
    """A `### …` header and the text under it; label is empty for text before the first header."""

    label: str
    line: int
    text: str


def check_sections(
    sections: Iterable[Section], adapters: frozenset[str] | None, in_code: dict[int, bool], path: Path
) -> Iterator[Finding]:
    """Check these sections.

    adapters: the declared names, None if unknown. in_code: whether a file line is in a code block.
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
            message = f"No section of this file has the id {source}, the source of this pair."
            why = "The source was edited or removed, so the pair may no longer be true."
            fix = "Compare the pair with the current text, or remove it and synthesise it again."
            yield Finding(path, section.start_line, 0, "dangling-source", message, why, fix)


def _lines(section: Section) -> Iterator[tuple[int, str]]:
    """The lines as split for headers, with their file lines; several may share a file line."""
    line = section.content_line
    for text in section.content.splitlines(keepends=True):
        yield line, text
        line += text.endswith("\n")


def _blocks(section: Section) -> Iterator[_Block]:
    """The section split at its headers, in file order."""
    headers = {f"### {label}": label for label in _LABELS[section.kind]}
    if section.kind == "instruction":
        headers["### Q !probe"] = "Q"
    label, at, texts = "", section.content_line, list[str]()
    for line, text in _lines(section):
        if header := headers.get(text.strip()):
            yield _Block(label, at, "".join(texts).strip())
            label, at, texts = header, line, []
        else:
            texts.append(text)
    yield _Block(label, at, "".join(texts).strip())


def _grammar(section: Section, blocks: list[_Block], path: Path) -> Iterator[Finding]:
    """A finding for each header or text that is missing or out of order."""
    labels, rule = _LABELS[section.kind], _RULES[section.kind]
    order = _named(labels)
    before, *rest = blocks
    if before.text:
        line = next(line for line, text in _lines(section) if text.strip())
        message, fix = f"There is text before the first `### {labels[0]}`.", f"Put it under a header: {order}."
        if section.kind == "instruction" and looks_like_pair(before.text):
            fix = "A label such as `Q:` isn't a header: write `### Q` alone on a line, and the question below it."
        yield Finding(path, line, 1, rule, message, _NO_ROWS, fix)
    elif not rest:
        message, fix = "The section is empty.", f"Write {order}, or remove the section."
        yield Finding(path, section.start_line, 0, rule, message, _NO_ROWS, fix)
    expected = 0
    for label, line, text in rest:
        if label != labels[expected]:
            message = f"Expected `### {labels[expected]}`, but found `### {label}`."
            yield Finding(path, line, 1, rule, message, _NO_ROWS, f"The order must be {order}.")
        if not text:
            message, fix = f"`### {label}` is empty.", "Write its text, or remove the whole pair."
            yield Finding(path, line, 1, rule, message, _NO_ROWS, fix)
        expected = (labels.index(label) + 1) % len(labels)
    if rest and expected:
        message = f"`### {labels[expected]}` is missing at the end of the section."
        yield Finding(path, rest[-1].line, 1, rule, message, _NO_ROWS, "Write it, or remove the unfinished part.")


def _headers(section: Section, in_code: dict[int, bool], path: Path) -> Iterator[Finding]:
    """A finding for each header in a code block, where it still counts, and each line that looks like a header."""
    headers = {f"### {label}" for label in _LABELS[section.kind]} | {"### Q !probe"}
    for line, text in _lines(section):
        text = text.strip()
        if not text.startswith("#"):
            continue
        code = in_code.get(line, False)
        if text in headers and code:
            message = f"`{text}` is inside a code block."
            why = "Headers count in code blocks, too, so the text ends here."
            yield Finding(path, line, 1, "header-in-code", message, why, "Write the line differently.")
        elif text not in headers and not code and _NEAR_HEADER[section.kind].fullmatch(text):
            message = f"`{text[:40]}` looks like a header but isn't one."
            why = "It is read as part of the text above."
            fix = f"Headers are {_named(_LABELS[section.kind])}, alone on the line."
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
            message = f"This repeats the one at line {first} word for word."
            why = "It is trained twice, and if the copies end up in training and validation, the metrics are wrong."
            yield Finding(path, line, 1, "repeated-pair", message, why, "Remove one of them, or reword it.")


def _equal_sides(section: Section, blocks: list[_Block], path: Path) -> Iterator[Finding]:
    if section.kind == "preference":
        for _, chosen, rejected in _groups(section, blocks):
            if chosen.text.split() == rejected.text.split():
                message = "`### Chosen` and `### Rejected` are the same."
                why = "It is read without an error, but teaches no preference."
                yield Finding(path, rejected.line, 1, "equal-sides", message, why, "Change one, or remove the triple.")


def _undeclared(section: Section, name: str, adapters: frozenset[str], path: Path) -> Finding:
    message = f"The adapter `{name}` isn't declared in training.adapters."
    if adapters:
        why = f"Declared are {', '.join(sorted(adapters))}; the section trains none of them."
        close = get_close_matches(name, adapters, n=1)
        fix = f"Did you mean `#{close[0]}`?" if close else "Declare it, or use a declared name."
    else:
        why = "The document doesn't declare any adapters, so the name has no effect."
        fix = f"Declare `{name}` in training.adapters, or remove `#{name}` from the fence."
    return Finding(path, section.start_line, 1, "undeclared-adapter", message, why, fix)
