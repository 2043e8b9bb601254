"""Code blocks as the document parser and as Markdown see them, line by line.

The parser toggles at every line that starts with three backticks, and has no other rule. Markdown, as read here, also
has `~~~` blocks, indented delimiters and longer ones; a block without an end doesn't count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

_DELIMITER = re.compile(r"\s*(`{3,}|~{3,})(.*)", re.DOTALL)

Blocks = list[int | None]


def toggles(line: str) -> bool:
    """Whether the parser opens or closes a code block at this line."""
    return line.startswith("```")


def parser_blocks(lines: list[str]) -> Blocks:
    """For each line, the index of the line that opened its block for the parser, or None. Delimiters are inside."""
    blocks: Blocks = []
    opener: int | None = None
    for i, line in enumerate(lines):
        if not toggles(line):
            blocks.append(opener)
        elif opener is None:
            opener = i
            blocks.append(i)
        else:
            blocks.append(opener)
            opener = None
    return blocks


def markdown_blocks(lines: list[str]) -> tuple[Blocks, set[int]]:
    """The same for Markdown, and the indices of the delimiters."""
    blocks: Blocks = [None] * len(lines)
    delimiters: set[int] = set()
    never_closed: dict[str, int] = {}
    i = 0
    while i < len(lines):
        end = _closer(lines, i, never_closed)
        if end is None:
            i += 1
        else:
            blocks[i : end + 1] = [i] * (end + 1 - i)
            delimiters |= {i, end}
            i = end + 1
    return blocks, delimiters


def _closer(lines: list[str], i: int, never_closed: dict[str, int]) -> int | None:
    """The index of the line that closes the block opened at line i; None if line i doesn't open one, or nothing closes
    it.

    never_closed: by delimiter character, the smallest length known to have no closer in the rest of the file, so that
    the search stays linear.
    """
    opener = _DELIMITER.match(lines[i])
    if opener is None:
        return None
    character, length = opener[1][0], len(opener[1])
    if (character == "`" and "`" in opener[2]) or length >= never_closed.get(character, length + 1):
        return None
    for k in range(i + 1, len(lines)):
        closer = _DELIMITER.match(lines[k])
        if closer and closer[1][0] == character and len(closer[1]) >= length and not closer[2].strip():
            return k
    never_closed[character] = length
    return None


class Odd(NamedTuple):
    """A line that makes the number of toggles odd, as an index, and why.

    end: the other end of its block for an indented delimiter, the next opener for a block that isn't closed. toggle:
    the line without which the number is even.
    """

    line: int
    why: Literal["indented", "unclosed", "unmatched"]
    end: int | None
    toggle: int


class _Delimiter(NamedTuple):
    line: int
    toggles: bool
    character: str
    length: int
    can_open: bool
    can_close: bool
    as_opener: float  # what it costs to take it for an opener, judged by the lines around it
    as_closer: float


_Path = tuple[float, _Delimiter | None, tuple[Any, ...]]  # cost, opener of the open block, (Odd, (Odd, …))
_LONGEST = 6  # backticks of a delimiter that are told apart


def odd_one(lines: list[str], is_fence: list[bool]) -> Odd | None:
    """The line that most likely leaves a code block open for the parser; None if the number of toggles is even.

    Finds the blocks that the author most likely meant: those that need the fewest mistakes. An opener with a language
    can't close a block, both ends of a block are at column 0 or neither, a block rarely contains a section fence, and
    has text inside and blank lines around it.
    """
    if sum(map(toggles, lines)) % 2 == 0:
        return None
    paths: dict[Any, _Path] = {None: (0.0, None, ())}
    for i in range(len(lines)):
        if is_fence[i]:
            paths = _cheapest(_across_a_fence(*entry) for entry in paths.items())
        elif found := _delimiter(lines, i):
            paths = _cheapest(step for path in paths.items() for step in _steps(*path, found))
    ends = (
        (cost + 1, (Odd(opener.line, "unclosed", None, opener.line), odd)) if opener and opener.toggles else (cost, odd)
        for cost, opener, odd in paths.values()
    )
    _, odd = min(ends, key=lambda end: end[0])
    mistakes: list[Odd] = []
    while odd:
        mistakes.append(odd[0])
        odd = odd[1]
    return min(mistakes, key=lambda mistake: mistake.why == "unmatched")


def _cheapest(steps: Iterable[tuple[Any, _Path]]) -> dict[Any, _Path]:
    best: dict[Any, _Path] = {}
    for key, path in steps:
        if key not in best or path[0] < best[key][0]:
            best[key] = path
    return best


def _across_a_fence(key: Any, path: _Path) -> tuple[Any, _Path]:
    if key is None or key[-1]:
        return key, path
    cost, opener, odd = path
    return (*key[:-1], True), (cost + 0.6, opener, odd)


def _steps(key: Any, path: _Path, found: _Delimiter) -> Iterator[tuple[Any, _Path]]:
    """What this delimiter can be, after this path: an opener, a closer, or text."""
    cost, opener, odd = path
    opened = (found.toggles, found.character, min(found.length, _LONGEST), False)
    unmatched = (Odd(found.line, "unmatched", None, found.line), odd) if found.toggles else odd
    if opener is None:
        if found.can_open:
            yield opened, (cost + found.as_opener, found, odd)
        yield None, (cost + (1.1 if found.toggles else 0.2 * found.can_open), None, unmatched)
        return
    in_block = found.character != opener.character or found.length < opener.length
    if found.can_close and found.character == opener.character:
        price = found.as_closer + 0.5 * in_block + 0.3 * (found.line == opener.line + 1)
        if found.toggles == opener.toggles:
            yield None, (cost + price, None, odd)
        else:
            wrong, right = (found, opener) if opener.toggles else (opener, found)
            mistake = Odd(wrong.line, "indented", right.line, right.line)
            yield None, (cost + price + 1, None, (mistake, odd))
    yield key, (cost + ((0.7 if in_block else 1.2) if found.toggles else 0.3 * (not in_block)), opener, unmatched)
    if found.can_open:
        mistake = Odd(opener.line, "unclosed", found.line, opener.line)
        price = found.as_opener + (1 if opener.toggles else 0.3)
        yield opened, (cost + price, found, (mistake, odd) if opener.toggles else odd)


def _delimiter(lines: list[str], i: int) -> _Delimiter | None:
    match = _DELIMITER.match(lines[i])
    if match is None:
        return None
    blank = [k < 0 or k >= len(lines) or not lines[k].strip() for k in (i - 1, i + 1)]
    info = match[2].strip()
    return _Delimiter(
        line=i,
        toggles=toggles(lines[i]),
        character=match[1][0],
        length=len(match[1]),
        can_open=not (match[1][0] == "`" and "`" in info),
        can_close=not info,
        as_opener=0.0 if info else 0.1 * (not blank[0]) + 0.1 * blank[1],
        as_closer=0.1 * blank[0] + 0.1 * (not blank[1]),
    )
