"""Code blocks as the document parser and as Markdown see them, line by line.

The parser toggles at every line that starts with three backticks, and has no other rule. Markdown, as read here, also
has `~~~` blocks, indented delimiters and longer ones; a block without an end doesn't count.
"""

from __future__ import annotations

import re

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


def unclosed(lines: list[str], delimiters: set[int], is_fence: list[bool]) -> int | None:
    """The index of the line whose backticks most likely have no match; None if all blocks are closed for the parser.

    Searches between two section fences with an odd number of toggles between them, and prefers lines that aren't
    delimiters for Markdown.
    """
    parts: list[list[int]] = [[]]
    for i, line in enumerate(lines):
        if is_fence[i]:
            parts.append([])
        elif toggles(line):
            parts[-1].append(i)
    if sum(map(len, parts)) % 2 == 0:
        return None
    part = [part for part in parts if len(part) % 2][-1]
    return ([i for i in part if i not in delimiters] or part)[-1]
