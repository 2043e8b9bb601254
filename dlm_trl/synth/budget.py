"""What a run may spend: `Budget(tokens=…, cost=…, price=(IN, OUT))`, asked before each wave of requests.

Every request in flight reserves all that it could use: the most tokens that its prompt can have, and its
`max_new_tokens`. So the limit is never passed, and what a reply left unused is there for the next wave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dlm_trl.teachers.protocol import Request, TeacherInfo, Usage

_TEMPLATE_TOKENS = 16  # what a chat template can add to one message


@dataclass(slots=True)
class Budget:
    """Limits of a run, None where there is none: tokens, read and written together, and cost.

    price is what a million tokens cost, read and written, in the currency of cost. spent grows with `spend`.
    """

    tokens: int | None = None
    cost: float | None = None
    price: tuple[float, float] | None = None
    spent: Usage = field(default_factory=Usage)

    def affordable(self, bounds: Sequence[Usage]) -> int:
        """How many of these requests, from the first on, can be in flight together, each using up to its bound."""
        most = self.spent
        for count, bound in enumerate(bounds):
            most += bound
            if self._passed(most):
                return count
        return len(bounds)

    def spend(self, usage: Usage) -> None:
        """Counts what a reply really used."""
        self.spent += usage

    def _passed(self, usage: Usage) -> bool:
        if self.tokens is not None and usage.prompt_tokens + usage.completion_tokens > self.tokens:
            return True
        return self.cost is not None and (price_of(usage, self.price) or 0.0) > self.cost


def price_of(usage: Usage, price: tuple[float, float] | None) -> float | None:
    """What these tokens cost, None where no price is known."""
    if price is None:
        return None
    return (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1e6


def bound_of(request: Request, teacher: TeacherInfo) -> Usage:
    """The most tokens that a request can use: its prompt, and all it may write."""
    return Usage(most_tokens(request.messages, teacher), request.max_new_tokens)


def most_tokens(messages: Sequence[Mapping[str, str]], teacher: TeacherInfo) -> int:
    """The most tokens that a prompt can have: those that the teacher counts.

    Without the teacher's tokenizer it is a token for each byte, which no tokenizer exceeds.
    """
    counted = teacher.count_tokens(messages)
    if counted is not None:
        return counted
    return sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in messages)
