"""Check the lines of a body: malformed fences and markers, lines that look like one but aren't, code blocks that hide
or expose fences, and invisible characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, get_args

from dlm_trl.notes.code_blocks import Odd, markdown_blocks, odd_one, parser_blocks, toggles
from dlm_trl.notes.document import Kind
from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.findings import REFUSED, Finding, finding_of
from dlm_trl.notes.markers import Fence, read_fence, read_marker

_KINDS = get_args(Kind)
_ANY_KIND = "|".join(_KINDS)
_NEAR_BARE = re.compile(rf"\\?(?:::+\s*({_ANY_KIND})\s*(?:#\s*[\w-]*)?\s*:*|:({_ANY_KIND})\s*:+)", re.IGNORECASE)
_NEAR_ATTRIBUTES = re.compile(rf"\\?::+\s*({_ANY_KIND})\b(?=.*=|.*::$).+", re.IGNORECASE)
_NEAR_NAME = re.compile(r"\\?::+\s*([A-Za-z_-]+)\s*(?:#\s*[\w-]*\s*)?::+")
_NEAR_MARKER = re.compile(r"\s*<!--\s*dlm-auto-", re.IGNORECASE)
# Other dialects have containers, such as `:::note`, `::: {.x}` and `::card{a="b"}`, which end with a line of colons.
# Microsoft Learn has `:::image source="…":::`.
_ATTRIBUTE_NAME = re.compile(r"([\w-]+)\s*=")
_OUR_ATTRIBUTES = {"path", "alt", "transcript"}
_MAX_FENCE = 400  # characters; a longer line isn't a mistyped fence, and would be slow to match
_MARKER_START = "<!-- dlm-auto-"
_HARMLESS_FENCE, _HARMLESS_MARKER = "::prose::", '<!-- dlm-auto-harvest: source="" -->'

_SPLITTERS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_JOINERS = "\u200c\u200d"  # needed within words of many scripts, and in emoji
_HIDDEN = (
    "\u00ad\u180e\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u202a\u202b\u202c\u202d\u202e\x00-\x08\x0e-\x1b\x1f\x7f"
)
_INVISIBLE = re.compile(rf"[{_SPLITTERS}{_HIDDEN}]|(?:^|(?<=[!-~]))[{_JOINERS}]|[{_JOINERS}](?:$|(?=[!-~]))")
_NAMES = {"\v": "VERTICAL TAB", "\f": "FORM FEED", "\x85": "NEXT LINE"}

_ONLY_BACKTICKS = "For the parser, only three backticks at column 0 start or end a code block."


class CheckedLines(NamedTuple):
    """The problems of a body's lines, and what the next checks need.

    repaired: the lines, with those the parser would reject replaced by harmless ones. in_code: for each line, whether
    it is in a code block for the parser or for Markdown.
    """

    findings: list[Finding]
    repaired: list[str]
    in_code: list[bool]


def check_lines(lines: list[str], first: int, path: Path) -> CheckedLines:
    """Check the lines after the frontmatter; `first` is the file line of lines[0]."""
    findings: list[Finding] = []
    repaired = list(lines)
    fences = [_fence(line) for line in lines]
    odd = odd_one(lines, [isinstance(fence, Fence) for fence in fences])
    if odd is not None:
        findings.append(_odd_backticks(odd, first, path))
        repaired[odd.toggle] = ""
    markdown, _ = markdown_blocks(repaired)
    for_parser = parser_blocks(repaired)

    colons = [(i, len(line.strip())) for i, line in enumerate(lines) if set(line.strip()) == {":"}]
    last_end = {least: max((i for i, length in colons if length >= least), default=-1) for least in (2, 3)}
    after_markers = 0  # index of the first line after the markers of the last fence
    for i, (line, fence) in enumerate(zip(lines, fences, strict=True)):
        number = first + i
        findings += invisible_characters(line, number, path)
        markdown_opener, parser_opener = markdown[i], for_parser[i]
        if parser_opener is not None or toggles(line):
            if isinstance(fence, Fence) and markdown_opener is None and parser_opener is not None:
                findings.append(_hidden_fence(number, first + parser_opener, path))
        elif isinstance(fence, DlmError):
            findings.append(_bad_fence(fence, line, number, path))
            repaired[i] = _HARMLESS_FENCE
        elif fence is not None:
            if markdown_opener is not None:
                findings.append(_fence_in_code(number, first + markdown_opener, path))
            after_markers, malformed = _markers(lines, i + 1, fence, first, path)
            for finding in malformed:
                repaired[finding.line - first] = _HARMLESS_MARKER
            findings += malformed
        elif i >= after_markers and markdown_opener is None:
            findings += _near_miss(line, number, path, {least for least, end in last_end.items() if end > i})
    in_code = [p is not None or m is not None for p, m in zip(for_parser, markdown, strict=True)]
    return CheckedLines(findings, repaired, in_code)


def _odd_backticks(odd: Odd, first: int, path: Path) -> Finding:
    """A finding for the backticks that leave a code block open."""
    message = "These backticks open or close a code block that has no other end."
    fix = "Close the block with three backticks at column 0, or don't start the line with them."
    if odd.why == "indented":
        assert odd.end is not None
        message = (
            f"These backticks are indented, but those at the other end of the block, line {first + odd.end}, aren't."
        )
        fix = "Move these to column 0."
    elif odd.end is not None:
        fix = f"Close the block before line {first + odd.end} with three backticks at column 0, or remove this line."
    return Finding(path, first + odd.line, 1, "FenceError", message, f"{REFUSED} {_ONLY_BACKTICKS}", fix)


def _fence(line: str) -> Fence | DlmError | None:
    try:
        return read_fence(line, 0, None) if line.startswith("::") else None
    except DlmError as error:
        return error


def _bad_fence(error: DlmError, line: str, at: int, path: Path) -> Finding:
    name = line.strip(":").split()[0].partition("#")[0].lower() if line.strip(":") else ""
    close = get_close_matches(name, _KINDS, n=1)
    fix = f"Did you mean `::{close[0]}::`? {error.hint}" if close and close[0] not in line else error.hint
    return Finding(path, at, 1, error.kind, error.message, REFUSED, fix or "Correct the line.")


def _markers(lines: list[str], i: int, fence: Fence, first: int, path: Path) -> tuple[int, list[Finding]]:
    """The index after the markers that start at line i, right after a fence, and a finding per malformed one."""
    malformed: list[Finding] = []
    while i < len(lines) and lines[i].startswith(_MARKER_START):
        try:
            if read_marker(lines[i], fence.kind, first + i, path) is None:
                break
        except DlmError as error:
            malformed.append(finding_of(error, path))
        i += 1
    return i, malformed


def _hidden_fence(at: int, opener: int, path: Path) -> Finding:
    message = f"For the parser, this fence is in a code block that starts at line {opener}."
    why = f"No section starts here. {_ONLY_BACKTICKS}"
    fix = "Close the earlier block with three backticks at column 0; don't put text after them on the same line."
    return Finding(path, at, 1, "hidden-fence", message, why, fix)


def _fence_in_code(at: int, opener: int, path: Path) -> Finding:
    message = f"This fence starts a section, although it is in the code block from line {opener}."
    why = f"The block is split in two. {_ONLY_BACKTICKS}"
    return Finding(path, at, 1, "fence-in-code", message, why, "Use three backticks at column 0 for the block.")


def _near_miss(line: str, at: int, path: Path, ends: set[int]) -> Iterator[Finding]:
    """A finding for a line that looks like a marker or a fence.

    ends: for which numbers of colons a line of at least so many follows.
    """
    if _NEAR_MARKER.match(line):
        message = "This provenance marker isn't recognised."
        why = "It is trained as text, and the section loses its provenance."
        fix = "Put it at column 0 right after the fence of a section of its kind, with nothing else on the line."
        yield Finding(path, at, 1, "marker-is-text", message, why, fix)
        return
    if len(line) > _MAX_FENCE or ":" not in (plain := unicodedata.normalize("NFKC", line)):
        return
    visible = "".join(c for c in plain if unicodedata.category(c) != "Cf").strip()
    kind = _meant_kind(visible)
    foreign = visible.startswith(":::") and not set(_ATTRIBUTE_NAME.findall(visible)) <= _OUR_ATTRIBUTES
    if _is_container(visible, ends) and not (foreign and visible.endswith(":::")):
        return
    if kind is not None and foreign:
        message = f"`:::{kind} …:::` is a directive of Microsoft Learn, which isn't a section here."
        why = "It is trained as text, with its attributes."
        fix = f"Describe the {kind} in words. A section is written like `::prose::`, alone on a line."
        yield Finding(path, at, 1, "other-dialect", message, why, fix)
    elif kind is not None:
        message = f"This line looks like `::{kind}::` but isn't a fence: {_difference(line, visible, kind)}."
        why = "It is read as text, so no section starts here."
        example = f'::{kind} path="…"::' if kind in ("image", "audio") else f"::{kind}::"
        fix = f"Write exactly `{example}` on the line. If it is an example, put it in a block of three backticks."
        yield Finding(path, at, len(line) - len(line.lstrip()) + 1, "near-fence", message, why, fix)


def _is_container(visible: str, ends: set[int]) -> bool:
    """Whether this line opens a container of another dialect, which ends with a line of colons."""
    return 3 in ends if visible.startswith(":::") else "{" in visible and 2 in ends


def _meant_kind(visible: str) -> str | None:
    """The kind of section that this line probably was meant to open."""
    if match := _NEAR_BARE.fullmatch(visible) or _NEAR_ATTRIBUTES.fullmatch(visible):
        return next(group for group in match.groups() if group).lower()
    if match := _NEAR_NAME.fullmatch(visible):
        return next(iter(get_close_matches(match[1].lower(), _KINDS, n=1, cutoff=0.8)), None)
    return None


def _difference(line: str, visible: str, kind: str) -> str:
    for is_different, difference in (
        (any(unicodedata.category(c) == "Cf" for c in line), "it contains an invisible character"),
        (visible.startswith("\\"), "it starts with a backslash, which doesn't escape anything"),
        (line != line.lstrip(), "it is indented"),
        (line != line.rstrip(), "it has trailing white space"),
        (kind not in visible, "the kind is spelled differently"),
        ("=" in visible, 'its attributes must be written key="value"'),
    ):
        if is_different:
            return difference
    return "its colons or spaces are wrong"


def invisible_characters(line: str, at: int, path: Path) -> Iterator[Finding]:
    """A finding for each invisible character in this line: line separators, controls and zero-width characters."""
    if not _INVISIBLE.search(line):
        return
    for character, column in {m[0]: m.start() + 1 for m in reversed(list(_INVISIBLE.finditer(line)))}.items():
        name = _NAMES.get(character) or unicodedata.name(character, "CONTROL CHARACTER")
        message = f"This line contains the invisible character U+{ord(character):04X} {name}."
        if character in _SPLITTERS:
            why = "In questions and answers it ends a line, elsewhere in the file it doesn't."
            yield Finding(
                path, at, column, "invisible-character", message, why, "Replace it with a line break or a space."
            )
        else:
            why = "It is trained like any other character, and words and headers that contain it don't match."
            yield Finding(path, at, column, "invisible-character", message, why, "Remove it.")
