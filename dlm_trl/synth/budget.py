"""Spending limits of a run: `Budget(tokens=…, cost=…, price=(IN, OUT))`, checked before each wave of requests.

Every request in flight reserves the most it could use: its longest possible prompt plus `max_new_tokens`. So a limit
is never exceeded, and what a reply didn't use is available to the next wave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dlm_trl.teachers.protocol import Request, TeacherInfo, Usage

_TEMPLATE_TOKENS = 16  # that a chat template can add to one message


@dataclass(slots=True)
class Budget:
    """Limits of a run, None for unlimited: tokens (prompt and completion together) and cost.

    price: cost of a million prompt tokens and of a million completion tokens, in the currency of `cost`. spent: usage
    so far.
    """

    tokens: int | None = None
    cost: float | None = None
    price: tuple[float, float] | None = None
    spent: Usage = field(default_factory=Usage)

    def affordable(self, bounds: Sequence[Usage]) -> int:
        """How many of these requests can be sent together, counted from the first; bounds are their `max_usage`."""
        total = self.spent
        for count, bound in enumerate(bounds):
            total += bound
            if self._exceeded_by(total):
                return count
        return len(bounds)

    def spend(self, usage: Usage) -> None:
        """Add the actual usage of a reply."""
        self.spent += usage

    def _exceeded_by(self, usage: Usage) -> bool:
        if self.tokens is not None and usage.prompt_tokens + usage.completion_tokens > self.tokens:
            return True
        return self.cost is not None and (cost_of(usage, self.price) or 0.0) > self.cost


def cost_of(usage: Usage, price: tuple[float, float] | None) -> float | None:
    """The cost of these tokens, or None without prices."""
    if price is None:
        return None
    return (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1e6


def max_usage(request: Request, teacher: TeacherInfo) -> Usage:
    """The most tokens that a request can use: its prompt with the opening, and a reply of `max_new_tokens`."""
    prompt = max_prompt_tokens(request.messages, teacher)
    if request.opening:  # counted as a message, less what the chat template adds to each
        opening, nothing = ([{"role": "user", "content": content}] for content in (request.opening, ""))
        prompt += max_prompt_tokens(opening, teacher) - max_prompt_tokens(nothing, teacher)
    return Usage(prompt, request.max_new_tokens)


def max_prompt_tokens(messages: Sequence[Mapping[str, str]], teacher: TeacherInfo) -> int:
    """The tokens of a prompt as the teacher counts them.

    Without the teacher's tokenizer, one token per UTF-8 byte, which is an upper bound for any tokenizer.
    """
    counted = teacher.count_tokens(messages)
    if counted is not None:
        return counted
    return sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in messages)
