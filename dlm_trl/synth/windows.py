"""Long prose in pieces that fit the teacher: `windows(prose, fits) -> list of texts`, and a budget shared among them.

A piece ends at a paragraph's border where it can, else behind a sentence, else between two words, and within a word
only where that alone is too long: Chinese and Thai put no blanks between words. Nothing is lost and nothing said twice:
the pieces, joined, are the prose but for the blanks at their seams.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

# From coarse to fine; each matches the blanks, or the place, behind which a piece may begin.
_SEAMS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"')\]]))\s+|(?:(?<=[。！？])(?![」』”’）])|(?<=[。！？][」』”’）]))\s*"),
    re.compile(r"\s+"),
    re.compile(r"(?<=\S)(?=\S)"),
)


def windows(prose: str, fits: Callable[[str], bool]) -> list[str]:
    """The prose in as few pieces as this greedy cut gives, each of which `fits`; a single character is never cut.

    `fits` must hold for every part of a text for which it holds. It is asked a number of times that grows with the
    pieces, not with the words, and of no text much longer than a piece, but for the prose itself.
    """
    return _cut(prose.strip(), fits, 0)


def _cut(text: str, fits: Callable[[str], bool], level: int) -> list[str]:
    if level == len(_SEAMS) or fits(text):
        return [text]
    seams = [m.span() for m in _SEAMS[level].finditer(text) if m.end() < len(text)]
    stops, starts = zip(*seams, (len(text), len(text)), strict=True)
    pieces: list[str] = []
    begin = done = 0
    while done < len(stops):
        count = _most(len(stops) - done, lambda n, begin=begin, done=done: fits(text[begin : stops[done + n - 1]]))
        done += max(count, 1)
        piece = text[begin : stops[done - 1]]
        pieces += [piece] if count else _cut(piece, fits, level + 1)
        begin = starts[done - 1]
    return pieces


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to limit for which it holds, 0 for none; it holds for all numbers below that one."""
    high = 1
    while high <= limit and holds(high):
        high *= 2
    low = high // 2
    return low + bisect_left(range(low + 1, min(high, limit + 1)), True, key=lambda n: not holds(n))


def shares(budget: int, sizes: Sequence[int]) -> list[int]:
    """A whole share of the budget for each piece, in proportion to the sizes; they add up to the budget.

    Largest remainders first, and of equal ones the earlier piece.
    """
    exact = [budget * size / sum(sizes) for size in sizes]
    given = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: given[i] - exact[i])
    for i in by_remainder[: budget - sum(given)]:
        given[i] += 1
    return given
