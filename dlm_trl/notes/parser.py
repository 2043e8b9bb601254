"""Parse a file's bytes into a `Document`: `read(path)` for a file, `parse(text)` for text in memory.

All fences start with `::` at the start of a line, so the parser searches for that and skips every other line, which
makes prose nearly free. It scans decoded text with LF line ends, and maps the starts of sections back to byte offsets.
"""

from __future__ import annotations

import gc
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from dlm_trl.notes.document import NO_PROVENANCE, Document, Section
from dlm_trl.notes.errors import DlmEncodingError, DlmReadError, FenceError, FrontmatterError
from dlm_trl.notes.frontmatter import parse_frontmatter
from dlm_trl.notes.markers import PLAIN_FENCES, read_fence, read_marker

MAX_BYTES = 256 * 2**20  # of a document
_BOM = "\ufeff"
_CLOSING = re.compile(r"\n---(?=\n|\Z)")
_FENCE_START = "\n::"
_COLONS = re.compile(rb"::")
_BREAK = re.compile(rb"\r\n?|\n")
_CODE = "\n```"
_MARKER_START = "<!-- dlm-auto-"


def read(path: str | os.PathLike[str]) -> Document:
    """Read a document. Raises DlmError if the file can't be opened, or isn't a valid document."""
    path = Path(path)
    return parse(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises DlmError (DlmReadError) if it can't be opened, is a pipe or device, or too large."""
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # a pipe or a device may never end
            raise DlmReadError("This is a pipe or a device.", hint="Write the document to a file first.", path=path)
        if found.st_size > MAX_BYTES:
            raise too_large(path)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DlmReadError(f"The file cannot be read: {reason}.", hint="Check the path.", path=path) from None


def too_large(path: Path) -> DlmReadError:
    """The error for a document of more than `MAX_BYTES`."""
    return DlmReadError(
        f"The document has more than {MAX_BYTES // 2**20} MiB.",
        hint="Divide it, or name its files in `training.sources`.",
        path=path,
    )


def parse(text: str | bytes, path: Path | None = None) -> Document:
    """Parse a document; path is only used in errors and sections. Raises DlmError if the text isn't valid."""
    raw, original = _decoded(text, path)
    body = original.removeprefix(_BOM)
    if "\r" in body:
        body = body.replace("\r\n", "\n").replace("\r", "\n")

    closing = _CLOSING.search(body, 3) if body.startswith("---\n") else None
    if closing is None:
        raise FrontmatterError(
            "The file doesn't start with a frontmatter block.",
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
    with _without_gc():
        sections = _scan(body, begin, end, raw, path)
    return Document(frontmatter, tuple(sections), path, raw, sections[0].span[0] if sections else len(raw))


@contextmanager
def _without_gc() -> Iterator[None]:
    """Pause garbage collection, which would traverse the growing list of sections again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _decoded(text: str | bytes, path: Path | None) -> tuple[bytes, str]:
    """The text as bytes and as a string. Raises DlmError (DlmEncodingError) if it isn't UTF-8."""
    try:
        return (text.encode(), text) if isinstance(text, str) else (text, text.decode())
    except UnicodeError as error:
        assert isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
        unit = "character" if isinstance(text, str) else "byte"
        raise DlmEncodingError(
            f"The text isn't UTF-8: {error.reason} at {unit} {error.start}.",
            hint="Save the file as UTF-8.",
            path=path,
        ) from None


def _starts(raw: bytes, line: int) -> Iterator[int]:
    """The byte offset of this line, then of each later line that starts with `::`."""
    begin = next(islice(_BREAK.finditer(raw), line - 2, None)).end()
    yield begin
    yield from (at for match in _COLONS.finditer(raw, begin) if raw[(at := match.start()) - 1] in b"\r\n")


def _scan(text: str, begin: int, end: int, raw: bytes, path: Path | None) -> list[Section]:
    """The sections of the body, text[begin:end], without blank prose."""
    kept: list[Section] = []
    fence, line = PLAIN_FENCES["::prose::"], text.count("\n", 0, begin) + 1  # of the current section
    content_start, content_line = begin, line
    here, line_here = begin - 1, line  # the line break before the next line to examine, and that line's number
    has_code, in_code = "`" in text, False
    starts = _starts(raw, line) if len(raw) != len(text) else None  # otherwise text offsets are byte offsets
    start = next(starts) if starts else begin
    while True:
        next_fence = None
        stop = text.find(_FENCE_START, here, end)
        last = stop < 0
        if last:
            stop, edge = end, len(raw)
        else:
            edge = next(starts) if starts else stop + 1
        # Searching for a single character first is faster than for the break and the backticks together.
        if has_code and text.find("`", here, stop) >= 0 and text.count(_CODE, here, stop) % 2:
            in_code = not in_code
        if not last:
            line_here += text.count("\n", here + 1, stop + 1)
            here = text.find("\n", stop + 1, end)
            if here < 0:
                here = end
            if not in_code:
                fence_line = text[stop + 1 : here]
                next_fence = PLAIN_FENCES.get(fence_line) or read_fence(fence_line, line_here, path)
            line_here += 1
            if not next_fence:
                continue
        elif in_code:
            raise FenceError(
                "A code block isn't closed.",
                hint="Close it with three backticks at the start of a line.",
                path=path,
                line=line,
                column=0,
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
        elif kept:  # blank prose isn't a section: its bytes belong to the one before
            kept[-1] = kept[-1]._replace(span=(kept[-1].span[0], edge))
        if not next_fence:
            return kept
        fence, start, line = next_fence, edge, line_here - 1
        content_start, content_line = here + 1, line_here
