"""Long prose in pieces that fit the teacher: `windows(prose, fits) -> list of texts`, and a budget shared among them.

A piece ends at a paragraph's border where it can, else behind a sentence, else between two words. Nothing is lost and
nothing said twice: the pieces, joined, are the prose but for the blanks at their seams.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# From coarse to fine; each matches the blanks behind which a piece may begin.
_SEAMS = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"')\]]))\s+"), re.compile(r"\s+"))


def windows(prose: str, fits: Callable[[str], bool]) -> list[str]:
    """The prose in as few pieces as this greedy cut gives, each of which `fits`; a single word is never cut.

    `fits` must hold for every part of a text for which it holds.
    """
    return _cut(prose.strip(), fits, 0)


def _cut(text: str, fits: Callable[[str], bool], level: int) -> list[str]:
    if level == len(_SEAMS) or fits(text):
        return [text]
    pieces: list[str] = []
    begin = end = 0  # text[begin:end] is known to fit
    seams = [(m.start(), m.end()) for m in _SEAMS[level].finditer(text)] + [(len(text), len(text))]
    following = 0
    for stop, after in seams:
        if end > begin and not fits(text[begin:stop]):
            pieces += _cut(text[begin:end], fits, level + 1)
            begin = following
        end, following = stop, after
    return pieces + _cut(text[begin:end], fits, level + 1)


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
