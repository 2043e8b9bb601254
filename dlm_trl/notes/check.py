"""Find everything wrong with a `.dlm` file: what the parser rejects, and what it would silently misread.

`check(path)` continues after an error, so one run reports everything. `check_head` checks the frontmatter,
`check_lines` the lines of the body and `check_sections` its sections; `findings` formats the results. On the command
line: `dlm-trl check notes.dlm`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dlm_trl.notes.check_head import Head, check_head
from dlm_trl.notes.check_lines import check_lines, invisible_characters
from dlm_trl.notes.check_prose import check_prose
from dlm_trl.notes.check_sections import check_sections
from dlm_trl.notes.document import Document, Section
from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.findings import REFUSED, Finding, finding_of
from dlm_trl.notes.parser import parse, read_bytes
from dlm_trl.notes.schema import Source
from dlm_trl.notes.source_report import not_notes, source_parts

# Replaces the frontmatter when the body is parsed, so that errors in one don't hide errors in the other.
_STAND_IN = "---\n{dlm_id: AAAAAAAAAAAAAAAAAAAAAAAAAA, base_model: none}\n---\n"
_MORE_HEAD = re.compile(r"\s|(dlm_id|dlm_version|base_model|training|export|system_prompt):(\s|$)")


def check(path: str | os.PathLike[str]) -> list[Finding]:
    """Every problem in this file, sorted by line.

    Raises DlmError (DlmReadError) only if the file can't be opened.
    """
    path = Path(path)
    raw = read_bytes(path)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [_refused(path, 1, "DlmEncodingError", "The file is UTF-16.", "Save the file as UTF-8.")]
    text = raw.decode(errors="replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")

    findings, head_start, head_end = _head_range(lines, path)
    # Blank lines replace anything before the YAML, so that line numbers stay right.
    yaml = "\n".join([*[""] * head_start, *lines[head_start + 1 : head_end]])
    head = check_head(yaml, path) if head_end else Head(None, None, [], {})
    body_start = head_end + 1 if head_end else head_start
    body = check_lines(lines[body_start:], body_start + 1, path)
    findings += [*_encoding(raw, path), *_lone_returns(raw, path), *_early_end(lines, head_end, path)]
    findings += [*head.findings, *body.findings]
    for i, line in enumerate(lines[:body_start]):
        findings += invisible_characters(line, i + 1, path)

    try:
        sections = _sections(body.repaired, body_start, path)
    except DlmError as error:
        findings.append(finding_of(error, path))
    else:
        in_code = {body_start + 1 + i: code for i, code in enumerate(body.in_code)}
        findings += check_sections(sections, head.adapters, in_code, path)
        findings += check_prose(sections, in_code, path)
    findings += _sources(head, path)
    return sorted(set(findings))


def _head_range(lines: list[str], path: Path) -> tuple[list[Finding], int, int]:
    """Problems with the two `---` lines, and their indices.

    Without them, the second index is 0 and the first is where the body begins.
    """
    rule, fix = "FrontmatterError", "Line 1 must be exactly `---`, and another line exactly `---` must close the YAML."
    start = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if lines[start].strip() != "---":
        return [_refused(path, 1, rule, "The file doesn't start with a frontmatter block.", fix)], 0, 0
    findings = []
    if start or lines[0] != "---":
        message = "There is white space before or after the `---` that opens the frontmatter."
        findings.append(_refused(path, start + 1, rule, message, fix))
    for delimiters in (("---",), ("--- ", "---\t", "...")):
        for i, line in enumerate(lines[start + 1 :], start + 1):
            if line in delimiters or (len(delimiters) > 1 and line.strip() == "---"):
                if delimiters != ("---",):
                    message = f"`{line}` doesn't close the frontmatter."
                    findings.append(_refused(path, i + 1, rule, message, "The line must be exactly `---`."))
                return findings, start, i
    findings.append(_refused(path, start + 1, rule, "The frontmatter isn't closed.", fix))
    return findings, next((i for i, line in enumerate(lines) if line.startswith("::")), len(lines)), 0


def _early_end(lines: list[str], head_end: int, path: Path) -> Iterator[Finding]:
    """A finding if a `---` inside a YAML string closed the frontmatter early."""
    if head_end and "---" in (body := lines[head_end + 1 :]):
        rest = body[: body.index("---")]
        if rest and all(_MORE_HEAD.match(line) for line in rest):
            message = f"The frontmatter ends here, but the lines up to {head_end + len(rest) + 2} look like more of it."
            why = "The first line that is exactly `---` closes it, even in a YAML string; the rest is trained as prose."
            fix = "Indent the `---` inside the string, or remove it."
            yield Finding(path, head_end + 1, 1, "early-end", message, why, fix)


def _encoding(raw: bytes, path: Path) -> Iterator[Finding]:
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", raw), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            column = len(line[: error.start].decode()) + 1
            message, fix = f"The line isn't UTF-8: {error.reason}.", "Save the file as UTF-8."
            yield Finding(path, number, column, "DlmEncodingError", message, REFUSED, fix)


def _lone_returns(raw: bytes, path: Path) -> Iterator[Finding]:
    """A finding for each lone carriage return, unless the whole file uses them as line ends."""
    if b"\r" in raw and b"\n" in raw:
        for number, end in enumerate(re.findall(rb"\r\n|\n|\r", raw), 1):
            if end == b"\r":
                message, why = (
                    "This line ends with a lone carriage return.",
                    "The parser starts a new line here, but most editors don't show one.",
                )
                yield Finding(
                    path, number, 0, "lone-return", message, why, "Replace it with a line break, or remove it."
                )


def _sections(body: list[str], body_start: int, path: Path) -> tuple[Section, ...]:
    """The body's sections, with file line numbers."""
    document = parse(_STAND_IN + "\n".join(body), path)
    shift = body_start - _STAND_IN.count("\n")
    return tuple(
        section._replace(start_line=section.start_line + shift, content_line=section.content_line + shift)
        for section in document.sections
    )


def _sources(head: Head, path: Path) -> Iterator[Finding]:
    if head.frontmatter is not None:
        document = replace(parse(_STAND_IN, path), frontmatter=head.frontmatter)
        for i, source in enumerate(head.frontmatter.training.sources or ()):
            line = head.lines.get(("training", "sources", i), 1)
            try:
                found = not_notes(source_parts(_with_source(document, source)))
            except DlmError as error:
                message, why = f"`{source.path}`: {error.message}", "Training would stop with this error."
                yield Finding(path, line, 0, error.kind, message, why, error.hint or "Correct the path.")
                continue
            if found is not None:
                message, fix = found
                why = "They are trained as prose, as many tokens as they are."
                yield Finding(path, line, 0, "sources-not-notes", message, why, fix)


def _with_source(document: Document, source: Source) -> Document:
    """The document with this entry as its only source."""
    training = document.frontmatter.training.model_copy(update={"sources": (source,)})
    return replace(document, frontmatter=document.frontmatter.model_copy(update={"training": training}))


def _refused(path: Path, line: int, rule: str, message: str, fix: str) -> Finding:
    return Finding(path, line, 1, rule, message, REFUSED, fix)
