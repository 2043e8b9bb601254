"""The settings of a synthesis run: `SynthSettings(teacher="hf:tiny", per_section=5)`, checked on creation."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal, get_args

from dlm_trl.notes.errors import UsageError
from dlm_trl.synth.judge import check_reference
from dlm_trl.synth.view_kinds import VIEW_KINDS, ViewKind

Strategies = Literal["extraction", "expansion", "both"]
Ask = Literal["list", "sentences"]
Filter = Literal["none", "dedup-only", "sway"]
Quantization = Literal["4bit", "8bit"]


PER_SECTION = 3  # pairs in a list, by default
BATCH_PRICE = 0.5  # of a token in a batch, as a share of its price in an ordinary request


@dataclass(frozen=True, slots=True)
class SynthSettings:
    """Options of `dlm-trl synth instructions`, with the same names and defaults; --help explains each.

    With views, the options of `dlm-trl synth views`: as many views of each fact, of these kinds; sentences limits it to
    these facts, verbatim.

    Raises DlmError (UsageError) for a value that is out of range, or a combination that can't work.
    """

    teacher: str = "self"
    per_section: int | None = None
    strategy: Strategies = "extraction"
    ask: Ask | None = None
    uncovered: bool = False
    filter: Filter = "sway"
    threshold: float = 0.1
    max_pairs: int | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    fresh: bool = False
    concurrency: int = 16
    quantization: Quantization | None = None
    max_cost: float | None = None
    price: tuple[float, float] | None = None
    budget_tokens: int | None = None
    judge: str | None = None
    min_grounding: float | None = None
    min_novelty: float | None = None
    prompt: str | os.PathLike[str] | None = None
    context: int | None = None
    batch: bool = False
    views: int | None = None
    kinds: tuple[ViewKind, ...] = VIEW_KINDS
    sentences: frozenset[str] | None = None

    def __post_init__(self) -> None:
        choices = {
            "strategy": get_args(Strategies),
            "ask": (*get_args(Ask), None),
            "filter": get_args(Filter),
            "quantization": (*get_args(Quantization), None),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                expected = ", ".join(choice for choice in allowed if choice)
                raise UsageError(f"--{name} is {getattr(self, name)!r}.", hint=f"It must be one of {expected}.")
        check_reference(self.judge)
        minimums = {
            "per_section": 1,
            "max_pairs": 1,
            "max_new_tokens": 1,
            "concurrency": 1,
            "temperature": 0,
            "max_cost": 0,
            "budget_tokens": 1,
            "context": 1,
            "views": 1,
        }
        for name, minimum in minimums.items():
            value = getattr(self, name)
            if value is not None and not minimum <= value < math.inf:  # also rejects NaN
                raise UsageError(f"{_option(name)} is {value}.", hint=f"It must be a number of at least {minimum}.")
        for name in ("threshold", "min_grounding", "min_novelty"):
            if math.isnan(getattr(self, name) or 0.0):
                raise UsageError(f"{_option(name)} is nan.", hint="It must be a number.")
        by_sentence = "--uncovered" if self.uncovered else "--ask sentences" if self.ask == "sentences" else None
        lists = ("expansion", "both") if self.uncovered else ("expansion",)
        for option, is_set in (
            ("--ask list", self.ask == "list"),
            ("--prompt", self.prompt is not None),
            (f"--strategy {self.strategy}", self.strategy in lists),
        ):
            if by_sentence and is_set:
                raise UsageError(f"{option} asks for lists of pairs.", hint=f"Leave it out, or {by_sentence}.")
        if unknown := [kind for kind in self.kinds if kind not in VIEW_KINDS]:
            hint = f"Choose from {', '.join(VIEW_KINDS)}."
            raise UsageError(f"Unknown kind of view {unknown[0]!r}.", hint=hint)
        if not self.kinds:
            raise UsageError("No kind of view is chosen.", hint=f"Choose from {', '.join(VIEW_KINDS)}.")
        if self.price is not None and not all(0 <= price < math.inf for price in self.price):
            raise UsageError(f"--price is {self.price[0]},{self.price[1]}.", hint="Both must be numbers of at least 0.")
        if any(character in self.teacher for character in '"\n\r'):
            raise UsageError(
                f"The teacher's name {self.teacher!r} can't be written into a document.",
                hint="Use a name without double quotes or line breaks.",
            )
        if self.batch and not self.teacher.startswith(("openai:", "anthropic:")):
            raise UsageError(
                f"{self.teacher} can't be asked in batches.",
                hint="Leave out --batch, or choose a teacher with a batch API: openai:… or anthropic:….",
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p is {self.top_p}.", hint="It must be above 0 and at most 1.")
        if self.max_cost is not None and self.price is None:
            raise UsageError("--max-cost needs prices.", hint="Add --price IN,OUT, the prices of a million tokens.")

    @property
    def paid_price(self) -> tuple[float, float] | None:
        """The price of a million prompt tokens, and of a million new tokens; half of --price in batches."""
        if self.price is None or not self.batch:
            return self.price
        return self.price[0] * BATCH_PRICE, self.price[1] * BATCH_PRICE

    @property
    def per_list(self) -> int:
        """Pairs to request in the list about a section."""
        return PER_SECTION if self.per_section is None else self.per_section


def _option(name: str) -> str:
    return f"--{'temp' if name == 'temperature' else name.replace('_', '-')}"
