"""Code blocks as two parties see them, line by line.

The reader of documents toggles at every line that begins with three backticks and knows nothing else. Markdown, which
is what people write and see, also has `~~~` blocks, indented blocks and longer fences, and no block without an end.
"""

from __future__ import annotations

import re

_DELIMITER = re.compile(r"\s*(`{3,}|~{3,})(.*)", re.DOTALL)

Blocks = list[int | None]


def toggles(line: str) -> bool:
    """Whether the reader opens or closes a code block at this line."""
    return line.startswith("```")


def reader_blocks(lines: list[str]) -> Blocks:
    """For each line the index of the line that opened the block it is in, None outside; delimiters are inside."""
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
    """The same as Markdown has it, and the indices of the delimiters."""
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
    """The index of the line that closes the block opened at line i; None where none is opened, or it is never closed.

    never_closed remembers by delimiter character the least length that has no closer further on, so that a file is
    not searched again and again.
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
    """The index of the line whose backticks most likely lack their other half; None where the reader finds all blocks
    closed.

    It is looked for between two section fences that have an odd number of toggles between them, and there first among
    those that are no delimiters to Markdown.
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
