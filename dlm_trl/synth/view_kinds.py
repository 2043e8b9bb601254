"""The kinds of views of a fact, and how a budget of views is split among them: `shares(10, VIEW_KINDS)`.

Half are questions, half are prose: trained on both together, a model answered more of the questions about new texts
than on as many of either (hugoabonizio/knowledge-injection-methods; Synthetic Mixed Training, arXiv 2603.23562). Two
fifths of the questions are reverse ones, since a fact trained in one direction isn't known in the other.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

from dlm_trl.synth.windows import split_budget

ViewKind = Literal["question", "reverse", "rewrite", "implication", "summary"]
VIEW_KINDS: tuple[ViewKind, ...] = get_args(ViewKind)
PAIR_KINDS: tuple[ViewKind, ...] = ("question", "reverse")  # the others are prose

# Of ten views of a fact.
_MIX: dict[ViewKind, int] = {"question": 3, "reverse": 2, "rewrite": 3, "implication": 1, "summary": 1}


def shares(views: int, kinds: Collection[ViewKind]) -> dict[ViewKind, int]:
    """How many views of a fact there are to be of each kind; they add up to `views`."""
    chosen = [kind for kind in VIEW_KINDS if kind in kinds]
    return dict(zip(chosen, split_budget(views, [_MIX[kind] for kind in chosen]), strict=True)) if chosen else {}
