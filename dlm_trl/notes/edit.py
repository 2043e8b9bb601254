"""Edit a `.dlm` file in place: `append`, `remove`, `replace_content`. All other bytes stay as they were.

Each takes a path, which is read under the file's lock, or a `Document` that was read before; the edit is then refused
if the file has changed since. The previous version is kept as `NAME.dlm.bak`. The `…_bytes` functions only compute the
new bytes, for `write`. Edits are byte splices in the file's newline style, and a missing final newline stays missing,
so removing what was appended restores the original bytes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dlm_trl.notes.document import Document, Section
from dlm_trl.notes.errors import DlmError, EditError
from dlm_trl.notes.files import locked, replace_file, write_error
from dlm_trl.notes.parser import parse, read

Target = Document | str | os.PathLike[str]

_NEWLINE = re.compile(rb"\r\n|\n|\r")
_BLANK_LINE_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}\Z")
_JOINT = re.compile(rb"(?<![\r\n])(?:\r\n|\n|\r)\Z")


def append(target: Target, *sections: str) -> Document:
    """Append these sections, each a text that starts with its fence line, and return the new document.

    Trailing blank lines of a text are dropped. Raises DlmError, without changing the file: EditError if it wouldn't
    contain exactly these sections afterwards, DlmWriteError if it changed since it was read or can't be written.
    """
    return _edit(target, lambda document: append_bytes(document, *sections))


def remove(target: Target, predicate: Callable[[Section], bool]) -> Document:
    """Remove the sections for which the predicate is true, and return the new document. Raises as `append` does."""
    return _edit(target, lambda document: remove_bytes(document, predicate))


def replace_content(target: Target, section_id: str, content: str) -> Document:
    """Replace the content of the section with this id, keeping its fence and markers, and return the new document.

    Raises as `append` does, and EditError if no section or several have this id.
    """

    def change(document: Document) -> bytes:
        matches = [section for section in document.sections if section.section_id == section_id]
        if len(matches) != 1:
            lines = ", ".join(str(section.start_line) for section in matches)
            problem = (
                f"Sections at lines {lines} share the id {section_id}."
                if matches
                else f"No section has the id {section_id}."
            )
            raise EditError(problem, hint="Read the file again and give the id of one section.", path=document.path)
        return replace_content_bytes(document, matches[0], content)

    return _edit(target, change)


def append_bytes(document: Document, *sections: str) -> bytes:
    """The file's bytes with these sections at the end. Raises DlmError (EditError)."""
    blocks = [_lines_of(text).rstrip("\n") for text in sections]
    if not blocks:
        return document.raw
    if not all(block.startswith("::") for block in blocks):
        raise EditError(
            "A text to append doesn't start with a fence line.",
            hint="Start it with `::prose::` or another fence.",
            path=document.path,
        )
    newline, raw = _newline_of(document.raw), document.raw
    text = _encoded(document, "\n".join(blocks)).replace(b"\n", newline)
    # Join with a newline before the text if the file has no final newline, else after it.
    new = raw + text + newline if raw.endswith((b"\n", b"\r")) else raw + newline + text
    head = raw[: document.body_start].rstrip(b"\r\n") + newline
    appended = _parsed(document, head + text)
    if appended.body_start != len(head):
        raise EditError(
            "A text to append starts with blank prose.", hint="Remove it; the parser would drop it.", path=document.path
        )
    return _verified(document, new, (*document.sections, *appended.sections))


def remove_bytes(document: Document, predicate: Callable[[Section], bool]) -> bytes:
    """The file's bytes without the sections for which the predicate is true. Raises DlmError (EditError)."""
    raw = document.raw
    kept = [section for section in document.sections if not predicate(section)]
    if len(kept) == len(document.sections):
        return raw
    new = b"".join([raw[: document.body_start], *(raw[slice(*section.span)] for section in kept)])
    if not raw.endswith((b"\n", b"\r")) and (joint := _JOINT.search(new)):
        new = new[: joint.start()]
    return _verified(document, new, tuple(kept))


def replace_content_bytes(document: Document, section: Section, content: str) -> bytes:
    """The file's bytes with new content in this section. Raises DlmError (EditError)."""
    raw, newline = document.raw, _newline_of(document.raw)
    content = _lines_of(content)
    if content == section.content:
        return raw
    begin = _line_start(raw, section.span[0], section.content_line - section.start_line)
    new = _encoded(document, content).replace(b"\n", newline)
    if section.content:
        last = _line_start(raw, begin, section.content.count("\n"))
        line_end = _NEWLINE.search(raw, last)
        end = line_end.start() if line_end else len(raw)
    else:
        end = begin
    head, tail = raw[:begin], raw[end:]
    if not section.content and not tail.startswith((b"\n", b"\r")):  # the fence is the last line
        if head.endswith((b"\n", b"\r")):
            tail = newline + tail
        else:
            new = newline + new
    # The parser drops one newline at both ends of the body, so content that starts or ends there needs one more.
    if section.content_line == section.start_line and content.startswith("\n") and not _BLANK_LINE_END.search(head):
        new = newline + new
    if not tail and content.endswith("\n"):
        tail = newline
    # In a file with mixed newlines, a CR next to a LF would become a single line end.
    if head.endswith(b"\r") and new.startswith(b"\n"):
        new = b"\r" + new
    if new.endswith(b"\r") and tail.startswith(b"\n"):
        new += b"\n"
    intended = section._replace(content=content)
    return _verified(document, head + new + tail, tuple(intended if s is section else s for s in document.sections))


def write(path: str | os.PathLike[str], new: bytes, expected: bytes) -> Document:
    """Replace a file that still contains the expected bytes, and return the new document.

    The old bytes are kept as `NAME.bak`. Raises DlmError: as `parse` does if `new` isn't a document, DlmWriteError if
    the file has changed, is locked by another program, or can't be written.
    """
    with locked(Path(path)):
        return _write_locked(Path(path), new, expected)


def _write_locked(path: Path, new: bytes, expected: bytes) -> Document:
    document = parse(new, path)
    target = path.resolve()
    try:
        current, status = target.read_bytes(), target.stat()
    except OSError as error:
        raise write_error(path, error.strerror or str(error), "Check the path.") from None
    if current != expected:
        raise write_error(path, "it has changed since it was read", "Read it again and repeat the edit.")
    if new != current:
        replace_file(target.with_name(f"{target.name}.bak"), current, status)
        replace_file(path, new)
    return document


def _edit(target: Target, change: Callable[[Document], bytes]) -> Document:
    if isinstance(target, Document):
        if target.path is None:
            raise EditError(
                "The document was not read from a file.", hint="Use the _bytes functions.", path=target.path
            )
        return write(target.path, change(target), expected=target.raw)
    path = Path(target)
    if not os.path.isfile(path):
        read(path)  # raises, before a lock file is created
    with locked(path):
        document = read(path)
        return _write_locked(path, change(document), expected=document.raw)


def _verified(document: Document, new: bytes, intended: tuple[Section, ...]) -> bytes:
    """`new`, if it contains exactly the intended sections and the same frontmatter; otherwise raises EditError."""
    result = _parsed(document, new)
    same_sections = [*map(_without_position, result.sections)] == [*map(_without_position, intended)]
    if result.frontmatter != document.frontmatter or not same_sections:
        raise EditError(
            "The edited file wouldn't contain exactly the intended sections.",
            hint="Content can't have fence lines, unclosed backticks, markers at the top, or be blank prose.",
            path=document.path,
        )
    return new


def _parsed(document: Document, raw: bytes) -> Document:
    try:
        return parse(raw, document.path)
    except DlmError as error:
        raise EditError(
            f"The edited file wouldn't parse: {error.message}", hint=error.hint, path=document.path
        ) from None


def _without_position(section: Section) -> Section:
    return section._replace(start_line=0, content_line=0, span=(0, 0), path=None)


def _newline_of(raw: bytes) -> bytes:
    """The file's most frequent line end."""
    counts = Counter(_NEWLINE.findall(raw)).most_common(1)
    return counts[0][0] if counts else b"\n"


def _line_start(raw: bytes, at: int, lines: int) -> int:
    """The offset of the line this many lines after the one at offset `at`."""
    for _ in range(lines):
        newline = _NEWLINE.search(raw, at)
        at = newline.end() if newline else len(raw)
    return at


def _lines_of(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoded(document: Document, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise EditError(
            f"The text isn't valid Unicode: {error.reason} at character {error.start}.",
            hint="Remove it.",
            path=document.path,
        ) from None
