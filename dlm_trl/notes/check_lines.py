"""Everything that is wrong with single lines of a body: bad fences and markers, lines that only look like one, code
blocks that hide or show fences, and characters that nobody sees.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, get_args

from dlm_trl.notes.code_blocks import markdown_blocks, reader_blocks, toggles, unclosed
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
_LONGEST_FENCE = 400  # a longer line is no fence gone wrong, and would cost the expressions above much time
_MARKER_START = "<!-- dlm-auto-"
_HARMLESS_FENCE, _HARMLESS_MARKER = "::prose::", '<!-- dlm-auto-harvest: source="" -->'

_SPLITTERS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_JOINERS = "\u200c\u200d"  # many scripts and emoji need them between their letters
_HIDDEN = (
    "\u00ad\u180e\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u202a\u202b\u202c\u202d\u202e\x00-\x08\x0e-\x1b\x1f\x7f"
)
_INVISIBLE = re.compile(rf"[{_SPLITTERS}{_HIDDEN}]|(?:^|(?<=[!-~]))[{_JOINERS}]|[{_JOINERS}](?:$|(?=[!-~]))")
_NAMES = {"\v": "VERTICAL TAB", "\f": "FORM FEED", "\x85": "NEXT LINE"}

_ONLY_BACKTICKS = "To the reader only three backticks at column 0 begin and end code."


class CheckedLines(NamedTuple):
    """The problems of a body's lines, and what is needed to go on behind them.

    repaired are the lines with all that the reader would refuse made harmless; in_code tells for each line whether
    the reader or Markdown has it in a code block.
    """

    findings: list[Finding]
    repaired: list[str]
    in_code: list[bool]


def check_lines(lines: list[str], first: int, path: Path) -> CheckedLines:
    """All problems of the lines behind the frontmatter; first is the file line of the first of them."""
    findings: list[Finding] = []
    repaired = list(lines)
    fences = [_fence(line) for line in lines]
    markdown, delimiters = markdown_blocks(lines)
    odd = unclosed(lines, delimiters, [isinstance(fence, Fence) for fence in fences])
    if odd is not None:
        message, why = (
            "These backticks open or close a code block that has no other half.",
            f"{REFUSED} {_ONLY_BACKTICKS}",
        )
        fix = "Close the block with three backticks at column 0, or do not begin the line with them."
        findings.append(Finding(path, first + odd, 1, "FenceError", message, why, fix))
        repaired[odd] = ""
        markdown, _ = markdown_blocks(repaired)
    reader = reader_blocks(repaired)

    behind = 0  # the first line behind the markers of the last fence
    for i, (line, fence) in enumerate(zip(lines, fences, strict=True)):
        at = first + i
        findings += invisible_characters(line, at, path)
        shown, hidden = markdown[i] is not None, reader[i] is not None
        if hidden or toggles(line):
            if isinstance(fence, Fence) and not shown and reader[i] is not None:
                findings.append(_hidden_fence(at, first + (reader[i] or 0), path))
        elif isinstance(fence, DlmError):
            findings.append(_bad_fence(fence, line, at, path))
            repaired[i] = _HARMLESS_FENCE
        elif fence is not None:
            if shown:
                findings.append(_shown_fence(at, first + (markdown[i] or 0), path))
            behind, wrong = _markers(lines, i + 1, fence, first, path)
            for finding in wrong:
                repaired[finding.line - first] = _HARMLESS_MARKER
            findings += wrong
        elif i >= behind and not shown:
            findings += _near_miss(line, at, path)
    in_code = [r is not None or m is not None for r, m in zip(reader, markdown, strict=True)]
    return CheckedLines(findings, repaired, in_code)


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
    """The index behind the markers that begin at line i, right behind a fence, and a finding for each wrong one."""
    wrong: list[Finding] = []
    while i < len(lines) and lines[i].startswith(_MARKER_START):
        try:
            if read_marker(lines[i], fence.kind, first + i, path) is None:
                break
        except DlmError as error:
            wrong.append(finding_of(error, path))
        i += 1
    return i, wrong


def _hidden_fence(at: int, opener: int, path: Path) -> Finding:
    message = f"This fence lies in a code block that, to the reader, began at line {opener}."
    why = f"No section begins here. {_ONLY_BACKTICKS}"
    fix = "End the block before with three backticks at column 0, and begin none with text on the same line."
    return Finding(path, at, 1, "hidden-fence", message, why, fix)


def _shown_fence(at: int, opener: int, path: Path) -> Finding:
    message = f"This fence begins a section although it lies in the code block of line {opener}."
    why = f"The block is cut in two. {_ONLY_BACKTICKS}"
    return Finding(path, at, 1, "fence-in-code", message, why, "Use three backticks at column 0 for the block.")


def _near_miss(line: str, at: int, path: Path) -> Iterator[Finding]:
    if _NEAR_MARKER.match(line):
        message = "This provenance marker is not read as one."
        why = "It stays in the text and is trained, and what it says about the section is lost."
        fix = "It must stand at column 0 right behind the fence of a section of its kind, with nothing after it."
        yield Finding(path, at, 1, "marker-is-text", message, why, fix)
        return
    if len(line) > _LONGEST_FENCE or ":" not in (plain := unicodedata.normalize("NFKC", line)):
        return
    visible = "".join(c for c in plain if unicodedata.category(c) != "Cf").strip()
    if kind := _meant_kind(visible):
        message = f"This line looks like `::{kind}::` but is none: {_difference(line, visible, kind)}."
        why = "The reader takes it for text, so no section begins here."
        example = f'::{kind} path="…"::' if kind in ("image", "audio") else f"::{kind}::"
        fix = f"Write `{example}` from column 0 to the end of the line; put examples into a block of three backticks."
        yield Finding(path, at, len(line) - len(line.lstrip()) + 1, "near-fence", message, why, fix)


def _meant_kind(visible: str) -> str | None:
    """The kind of section that this line seems meant to open."""
    if found := _NEAR_BARE.fullmatch(visible) or _NEAR_ATTRIBUTES.fullmatch(visible):
        return next(group for group in found.groups() if group).lower()
    if found := _NEAR_NAME.fullmatch(visible):
        return next(iter(get_close_matches(found[1].lower(), _KINDS, n=1, cutoff=0.8)), None)
    return None


def _difference(line: str, visible: str, kind: str) -> str:
    for wrong, what in (
        (any(unicodedata.category(c) == "Cf" for c in line), "it holds an invisible character"),
        (visible.startswith("\\"), "a backslash stands before it, and there are no escapes"),
        (line != line.lstrip(), "it is indented"),
        (line != line.rstrip(), "white space follows it"),
        (kind not in visible, "its kind is written differently"),
        ("=" in visible, 'its attributes are not all written key="value"'),
    ):
        if wrong:
            return what
    return "its colons or blanks do not fit"


def invisible_characters(line: str, at: int, path: Path) -> Iterator[Finding]:
    """A finding for each character in this line that nobody sees: splitters of lines, controls, and those without
    width.
    """
    if not _INVISIBLE.search(line):
        return
    for character, column in {m[0]: m.start() + 1 for m in reversed(list(_INVISIBLE.finditer(line)))}.items():
        name = _NAMES.get(character) or unicodedata.name(character, "CONTROL CHARACTER")
        message = f"U+{ord(character):04X} {name} stands here, and nobody sees it."
        if character in _SPLITTERS:
            why = "Questions and answers are split into lines at it, the rest of the file is not."
            yield Finding(
                path, at, column, "invisible-character", message, why, "Put a line break or a space in its place."
            )
        else:
            why = "It is trained like any other character, and a word or header that holds it is another one."
            yield Finding(path, at, column, "invisible-character", message, why, "Remove it.")
