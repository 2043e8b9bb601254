"""Split long prose into windows that fit the teacher (`windows(prose, fits)`), and split a budget among them.

A window ends at a paragraph break if possible, else after a sentence, else between words, and within a word only if
that word alone is too long: Chinese and Thai don't put spaces between words. Nothing is lost or repeated; the windows
joined are the prose, except for the white space where it was cut.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

# From coarse to fine; each matches the white space, or the position, after which a window may begin.
_SEAMS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"')\]]))\s+|(?:(?<=[。！？])(?![」』”’）])|(?<=[。！？][」』”’）]))\s*"),
    re.compile(r"\s+"),
    re.compile(r"(?<=\S)(?=\S)"),
)


def windows(prose: str, fits: Callable[[str], bool]) -> list[str]:
    """Greedily cut the prose into windows that fit, as long as possible each; a single character is never cut.

    If `fits` is true for a text, it must be true for every part of it. The number of calls grows with the number of
    windows, not of words, and apart from the whole prose no text much longer than a window is passed to it.
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
        count = _largest(len(stops) - done, partial(_joined_fits, text, fits, begin, stops, done))
        done += max(count, 1)
        piece = text[begin : stops[done - 1]]
        pieces += [piece] if count else _cut(piece, fits, level + 1)
        begin = starts[done - 1]
    return pieces


def _joined_fits(
    text: str, fits: Callable[[str], bool], begin: int, stops: Sequence[int], done: int, count: int
) -> bool:
    return fits(text[begin : stops[done + count - 1]])


def _largest(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to limit for which `holds`, 0 if none; it must hold for all smaller numbers, too."""
    high = 1
    while high <= limit and holds(high):
        high *= 2
    low = high // 2
    return low + bisect_left(range(low + 1, min(high, limit + 1)), True, key=lambda n: not holds(n))


def split_budget(budget: int, sizes: Sequence[int]) -> list[int]:
    """Split the budget into integers proportional to the sizes that add up to it.

    Largest remainder method; of equal remainders, the earlier size gets more.
    """
    exact = [budget * size / sum(sizes) for size in sizes]
    parts = [int(part) for part in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: budget - sum(parts)]:
        parts[i] += 1
    return parts
