"""Change a `.dlm` file in place: `append`, `remove`, `replace_content`. Every byte that is not meant stays as it was.

Each takes a path, read under the file's lock, or a `Document` that was read before; then a change that somebody made
since is detected and refused. The file as it was stays beside it as `NAME.dlm.bak`. The `…_bytes` functions only
compute the new bytes, for `write`. Edits are byte splices, in the file's own newline style, and whether the file ends
with a newline is kept: that is how removing what was appended gives the original bytes back.
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
    """Appends these sections, each a text that begins with its fence line, and returns the document as it is now.

    Blank lines at a text's end are dropped. Raises DlmError: EditError where the file would not hold exactly these
    sections afterwards, DlmWriteError where it was changed since the read or cannot be written. The file is untouched
    then.
    """
    return _edit(target, lambda document: append_bytes(document, *sections))


def remove(target: Target, predicate: Callable[[Section], bool]) -> Document:
    """Removes the sections for which the predicate is true, and returns the document as it is now. Raises as append
    does.
    """
    return _edit(target, lambda document: remove_bytes(document, predicate))


def replace_content(target: Target, section_id: str, content: str) -> Document:
    """Gives the one section of this id new content, fence and markers kept, and returns the document as it is now.

    Raises as append does, and EditError where no section or more than one has this id.
    """

    def change(document: Document) -> bytes:
        found = [section for section in document.sections if section.section_id == section_id]
        if len(found) != 1:
            lines = ", ".join(str(section.start_line) for section in found)
            what = (
                f"Sections at lines {lines} share the id {section_id}."
                if found
                else f"No section has the id {section_id}."
            )
            raise EditError(what, hint="Read the file again and name one section.", path=document.path)
        return replace_content_bytes(document, found[0], content)

    return _edit(target, change)


def append_bytes(document: Document, *sections: str) -> bytes:
    """The file's bytes with these sections at the end. Raises DlmError (EditError)."""
    blocks = [_lines_of(text).rstrip("\n") for text in sections]
    if not blocks:
        return document.raw
    if not all(block.startswith("::") for block in blocks):
        raise EditError(
            "A text to append does not begin with a fence line.",
            hint="Begin it with `::prose::` or another.",
            path=document.path,
        )
    newline, raw = _newline_of(document.raw), document.raw
    text = _encoded(document, "\n".join(blocks)).replace(b"\n", newline)
    # The joint lies before the text where the file has no final newline, and behind it where it has one.
    new = raw + text + newline if raw.endswith((b"\n", b"\r")) else raw + newline + text
    head = raw[: document.body_start].rstrip(b"\r\n") + newline
    appended = _parsed(document, head + text)
    if appended.body_start != len(head):
        raise EditError(
            "A text to append begins with blank prose.", hint="The reader drops it; leave it out.", path=document.path
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
    """The file's bytes with other content in this section. Raises DlmError (EditError)."""
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
    if not section.content and not tail.startswith((b"\n", b"\r")):  # no line at all follows the fence
        if head.endswith((b"\n", b"\r")):
            tail = newline + tail
        else:
            new = newline + new
    # The reader drops one newline at the body's two ends, so content that has its own there needs one more.
    if section.content_line == section.start_line and content.startswith("\n") and not _BLANK_LINE_END.search(head):
        new = newline + new
    if not tail and content.endswith("\n"):
        tail = newline
    # In a file of mixed newlines, a CR and a LF that come to meet would be one line end.
    if head.endswith(b"\r") and new.startswith(b"\n"):
        new = b"\r" + new
    if new.endswith(b"\r") and tail.startswith(b"\n"):
        new += b"\n"
    intended = section._replace(content=content)
    return _verified(document, head + new + tail, tuple(intended if s is section else s for s in document.sections))


def write(path: str | os.PathLike[str], new: bytes, expected: bytes) -> Document:
    """Puts new in the place of a file that still holds the expected bytes, and returns the document that it is now.

    The old bytes go to `NAME.bak` beside it. Raises DlmError: that of the reader where new is no document,
    DlmWriteError where the file holds other bytes than expected, is locked by another program, or cannot be written.
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
        raise write_error(path, "somebody changed it since it was read", "Read it again and repeat the edit.")
    if new != current:
        replace_file(target.with_name(f"{target.name}.bak"), current, status)
        replace_file(path, new)
    return document


def _edit(target: Target, change: Callable[[Document], bytes]) -> Document:
    if isinstance(target, Document):
        if target.path is None:
            raise EditError(
                "The document was not read from a file.", hint="Use append_bytes and its kin.", path=target.path
            )
        return write(target.path, change(target), expected=target.raw)
    path = Path(target)
    if not os.path.isfile(path):
        read(path)  # raises; a lock file beside it would make no sense
    with locked(path):
        document = read(path)
        return _write_locked(path, change(document), expected=document.raw)


def _verified(document: Document, new: bytes, intended: tuple[Section, ...]) -> bytes:
    """new, if it holds the intended sections under an untouched frontmatter; else EditError."""
    found = _parsed(document, new)
    if found.frontmatter != document.frontmatter or [_meaning(s) for s in found.sections] != [
        _meaning(s) for s in intended
    ]:
        hint = "Fence lines, odd backtick fences, markers at the top, and blank prose cannot be content."
        raise EditError(
            "The file would not hold exactly the intended sections afterwards.", hint=hint, path=document.path
        )
    return new


def _parsed(document: Document, raw: bytes) -> Document:
    try:
        return parse(raw, document.path)
    except DlmError as error:
        raise EditError(
            f"The file would not parse afterwards: {error.message}", hint=error.hint, path=document.path
        ) from None


def _meaning(section: Section) -> Section:
    """The section without its place in the file."""
    return section._replace(start_line=0, content_line=0, span=(0, 0), path=None)


def _newline_of(raw: bytes) -> bytes:
    """The newline that most lines of the file end with."""
    counts = Counter(_NEWLINE.findall(raw)).most_common(1)
    return counts[0][0] if counts else b"\n"


def _line_start(raw: bytes, at: int, lines: int) -> int:
    """Where the line that lies this many lines further on begins."""
    for _ in range(lines):
        found = _NEWLINE.search(raw, at)
        at = found.end() if found else len(raw)
    return at


def _lines_of(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoded(document: Document, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise EditError(
            f"The text is not UTF-8: {error.reason} at character {error.start}.", hint="Remove it.", path=document.path
        ) from None
