"""From a file's bytes to a `Document`: `read(path)` for a file, `parse(text)` for what is in memory.

The text is searched for `::` at the start of a line, which all fences share; other lines are never looked at, so prose
costs next to nothing.
The scan runs on decoded text with LF line ends; where sections begin is mapped back to bytes at the end.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from dlm_trl.notes.document import NO_PROVENANCE, Document, Section
from dlm_trl.notes.errors import DlmEncodingError, DlmReadError, FenceError, FrontmatterError
from dlm_trl.notes.frontmatter import parse_frontmatter
from dlm_trl.notes.markers import PLAIN_FENCES, read_fence, read_marker

_BOM = "\ufeff"
_CLOSING = re.compile(r"\n---(?=\n|\Z)")
_FENCE_START = "\n::"
_COLONS = re.compile(rb"::")
_BREAK = re.compile(rb"\r\n?|\n")
_CODE = "\n```"
_MARKER_START = "<!-- dlm-auto-"


def read(path: str | os.PathLike[str]) -> Document:
    """The document in this file. Raises DlmError where the file cannot be opened or is not a document."""
    path = Path(path)
    return parse(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """What is in this file. Raises DlmError (DlmReadError) where it cannot be opened."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DlmReadError(f"The file cannot be read: {reason}.", hint="Check the path.", path=path) from None


def parse(text: str | bytes, path: Path | None = None) -> Document:
    """The document in this text; path is only where its errors and sections say they come from. Raises DlmError."""
    raw, original = _decoded(text, path)
    body = original.removeprefix(_BOM)
    if "\r" in body:
        body = body.replace("\r\n", "\n").replace("\r", "\n")

    closing = _CLOSING.search(body, 3) if body.startswith("---\n") else None
    if closing is None:
        raise FrontmatterError(
            "The file does not begin with a frontmatter block.",
            hint="Line 1 must be exactly `---`, and another line exactly `---` must close the YAML.",
            path=path,
            line=1,
            column=1,
        )
    frontmatter = parse_frontmatter(body[4 : closing.start()], path)

    begin = min(closing.end() + 1, len(body))
    if body.startswith("\n", begin):
        begin += 1
    end = max(begin, len(body) - body.endswith("\n"))
    with _collector_paused():
        sections = _scan(body, begin, end, raw, path)
    return Document(frontmatter, tuple(sections), path, raw, sections[0].span[0] if sections else len(raw))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """The cycle collector waits: it would walk the growing list of sections time and again, and find no cycle."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _decoded(text: str | bytes, path: Path | None) -> tuple[bytes, str]:
    """The text as bytes and as a string; DlmError (DlmEncodingError) if it is not UTF-8."""
    try:
        return (text.encode(), text) if isinstance(text, str) else (text, text.decode())
    except UnicodeError as error:
        assert isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
        unit = "character" if isinstance(text, str) else "byte"
        raise DlmEncodingError(
            f"The text is not UTF-8: {error.reason} at {unit} {error.start}.",
            hint="Save the file as UTF-8.",
            path=path,
        ) from None


def _starts(raw: bytes, line: int) -> Iterator[int]:
    """Where in the bytes this line begins, then each line behind it that starts as a fence does."""
    begin = next(islice(_BREAK.finditer(raw), line - 2, None)).end()
    yield begin
    yield from (at for found in _COLONS.finditer(raw, begin) if raw[(at := found.start()) - 1] in b"\r\n")


def _scan(text: str, begin: int, end: int, raw: bytes, path: Path | None) -> list[Section]:
    """Every section of the body, text[begin:end], that is kept: all but blank prose."""
    kept: list[Section] = []
    fence, line = PLAIN_FENCES["::prose::"], text.count("\n", 0, begin) + 1  # of the section that is open
    content_start, content_line = begin, line
    here, line_here = begin - 1, line  # the line break in front of the next line to look at, and that line's number
    has_code, in_code = "`" in text, False
    starts = _starts(raw, line) if len(raw) != len(text) else None  # else offsets in the text are those in the bytes
    start = next(starts) if starts else begin
    while True:
        found = None
        stop = text.find(_FENCE_START, here, end)
        last = stop < 0
        if last:
            stop, edge = end, len(raw)
        else:
            edge = next(starts) if starts else stop + 1
        # A single character is found faster than the break and the backticks together.
        if has_code and text.find("`", here, stop) >= 0 and text.count(_CODE, here, stop) % 2:
            in_code = not in_code
        if not last:
            line_here += text.count("\n", here + 1, stop + 1)
            here = text.find("\n", stop + 1, end)
            if here < 0:
                here = end
            if not in_code:
                fence_line = text[stop + 1 : here]
                found = PLAIN_FENCES.get(fence_line) or read_fence(fence_line, line_here, path)
            line_here += 1
            if not found:
                continue
        elif in_code:
            raise FenceError(
                "A code block is not closed.", hint="Close it with three backticks.", path=path, line=line, column=0
            )

        provenance = NO_PROVENANCE
        while text.startswith(_MARKER_START, content_start):
            marker_end = text.find("\n", content_start, stop)
            if marker_end < 0:
                marker_end = stop
            marker = read_marker(text[content_start:marker_end], fence.kind, line, path)
            if marker is None:
                break
            provenance = MappingProxyType({**provenance, **marker}) if provenance else marker
            content_start, content_line = marker_end + 1, content_line + 1
        content = text[content_start:stop]
        kind, adapter, attributes = fence
        if kind != "prose" or (content and not content.isspace()):
            span = start, edge
            kept.append(Section(kind, content, line, content_line, span, adapter, path, provenance, attributes))
        elif kept:  # blank prose is no section: its bytes go with the one before
            kept[-1] = kept[-1]._replace(span=(kept[-1].span[0], edge))
        if not found:
            return kept
        fence, start, line = found, edge, line_here - 1
        content_start, content_line = here + 1, line_here
