"""From a file's bytes to a `Document`: `read(path)` for a file, `parse(text)` for what is in memory.

The scan works on bytes and looks only at lines that can matter (three backticks or `::` at column 0), so that offsets
are byte spans by themselves and prose costs next to nothing. Text with carriage returns is normalised first and its
offsets mapped back.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from dlm_trl.notes.document import NO_PROVENANCE, Document, Section
from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.frontmatter import parse_frontmatter
from dlm_trl.notes.markers import Fence, Marker, fence_error, read_fence, read_marker

_BOM = b"\xef\xbb\xbf"
_CLOSING = re.compile(rb"\n---(?=\n|\Z)")
_LANDMARK = re.compile(rb"\n(?:```|::[^\n]*::(?=\n|\Z))")
_MARKER_START = b"<!-- dlm-auto-"


def read(path: str | os.PathLike[str]) -> Document:
    """The document in this file. Raises DlmError where the file cannot be opened or is not a document."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DlmError(
            kind="DlmReadError", message=f"The file cannot be read: {reason}.", hint="Check the path.", path=path
        ) from None
    return parse(raw, path)


def parse(text: str | bytes, path: Path | None = None) -> Document:
    """The document in this text; path is only where its errors and sections say they come from. Raises DlmError."""
    raw = _encoded(text, path)
    bom = len(_BOM) if raw.startswith(_BOM) else 0
    data = raw[bom:].replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in raw else raw[bom:]

    closing = _CLOSING.search(data, 3) if data.startswith(b"---\n") else None
    if closing is None:
        raise DlmError(
            kind="FrontmatterError",
            message="The file does not begin with a frontmatter block.",
            hint="Line 1 must be exactly `---`, and another line exactly `---` must close the YAML.",
            path=path,
            line=1,
            column=1,
        )
    frontmatter = parse_frontmatter(data[4 : max(4, closing.start())].decode(), path)

    begin = min(closing.end() + 1, len(data))
    if data.startswith(b"\n", begin):
        begin += 1
    end = max(begin, len(data) - data.endswith(b"\n"))
    sections = tuple(_sections(data, begin, end, _Offsets(raw, bom), path))
    return Document(frontmatter, sections, path, raw, sections[0].span[0] if sections else len(raw))


def _encoded(text: str | bytes, path: Path | None) -> bytes:
    try:
        if isinstance(text, str):
            return text.encode()
        text.decode()
        return text
    except UnicodeError as error:
        assert isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
        where = "byte" if isinstance(text, bytes) else "character"
        raise DlmError(
            kind="DlmEncodingError",
            message=f"The text is not UTF-8: {error.reason} at {where} {error.start}.",
            hint="Save the file as UTF-8.",
            path=path,
        ) from None


class _Offsets:
    """From offsets in the normalised text to offsets in the original bytes."""

    def __init__(self, raw: bytes, bom: int) -> None:
        self.bom = bom
        # Where each CRLF that became LF lies in the normalised text: behind n of them, the original is n bytes ahead.
        self.crlf = [m.start() - bom - n for n, m in enumerate(re.finditer(rb"\r\n", raw))] if b"\r\n" in raw else []

    def original(self, offset: int) -> int:
        return offset + self.bom + bisect_left(self.crlf, offset)


def _sections(data: bytes, begin: int, end: int, offsets: _Offsets, path: Path | None) -> Iterator[Section]:
    """Every section that is kept. A span reaches to where the next kept one begins, the last to the end of the file."""
    kept = []
    for (start, after, line, fence), (stop, *_) in pairwise(_fences(data, begin, end, path)):
        content_line = line + (after > start)
        markers: list[Marker] = []
        while data.startswith(_MARKER_START, after):
            line_end = min(data.find(b"\n", after) % (stop + 1), stop - 1)
            marker = read_marker(data[after:line_end].decode(), fence.kind, line, path)
            if marker is None:
                break
            markers.append(marker)
            after, content_line = line_end + 1, content_line + 1
        content = data[after : stop - 1].decode()
        if content.strip() or fence.kind != "prose":
            kept.append((start, line, content_line, fence, markers, content))
    ends = [start for start, *_ in kept[1:]] + [len(data)]
    for (start, line, content_line, fence, markers, content), stop in zip(kept, ends, strict=False):
        names = {marker.name for marker in markers}
        yield Section(
            kind=fence.kind,
            content=content,
            start_line=line,
            content_line=content_line,
            span=(offsets.original(start), offsets.original(stop)),
            adapter=fence.adapter,
            path=path,
            auto_synth="synth" in names,
            auto_mined="mined" in names,
            auto_harvest="harvest" in names,
            provenance=MappingProxyType({k: v for m in markers for k, v in m.values.items()})
            if markers
            else NO_PROVENANCE,
            attributes=fence.attributes,
        )


def _fences(data: bytes, begin: int, end: int, path: Path | None) -> Iterator[tuple[int, int, int, Fence]]:
    """(where its line begins, where the next line begins, its line, the fence) for each, then one for the end.

    Leading prose has no fence: its two offsets are the same.
    """
    line, counted = data.count(b"\n", 0, begin) + 1, begin
    section_line, in_code = line, False
    yield begin, begin, line, Fence("prose")
    for mark in _LANDMARK.finditer(data, begin - 1, end):
        text = mark[0]
        if text == b"\n```":
            in_code = not in_code
        elif not in_code:
            start = mark.start() + 1
            line, counted = line + data.count(b"\n", counted, start), start
            if fence := read_fence(text[1:].decode(), line, path):
                section_line = line
                yield start, mark.end() + 1, line, fence
    if in_code:
        raise fence_error("A code block is not closed.", "Close it with three backticks.", section_line, path, column=0)
    yield end + 1, end + 1, line, Fence("prose")
