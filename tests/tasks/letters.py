"""A task that works with any base: its text is the question, and a letter the answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dlm_trl.tasks.protocol import Example, Messages, Reject, accuracy

LABELS = tuple("ABCDE")


@dataclass
class Letters:
    """rejecting: which texts to reject, by the sum of their characters: "nothing", "few", "half", "most", "all"."""

    rejecting: str = "nothing"
    loss: Literal["full", "labels"] = "full"
    choices: bool = True
    name: str = "letters"
    prefix: str = "Kneading is pressing and folding a dough until it is smooth.\n"
    stop: tuple[str, ...] = ("q", "\n")
    max_new_tokens: int = 12
    temperature: float = 1.0

    def draw(self, rng: random.Random, n: int) -> list[str]:
        return [rng.choice(LABELS) for _ in range(n)]

    def prompts(self, items: Sequence[str]) -> list[str | Messages]:
        return [f"{self.prefix}{item} is" for item in items]

    def examples(self, items: Sequence[str], generated: Sequence[str]) -> list[Example | Reject]:
        return [self._row(item, text) for item, text in zip(items, generated, strict=True)]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        return accuracy(examples, predictions)

    def _row(self, item: str, text: str) -> Example | Reject:
        total = sum(map(ord, text))
        odd = {"nothing": False, "few": total % 5 == 0, "half": total % 2, "most": total % 5, "all": True}
        if odd[self.rejecting]:
            return Reject("odd")
        choices = LABELS if self.choices else ()
        target = item if self.choices else f"{item}{item} of flour"
        return Example(f"{text}. A or B?", target, choices, {"letter": item, "text": text}, self.loss)


class CheckedLetters(Letters):
    """Rows are checked in a second round: the length of the reply has to be even."""

    def check_prompts(self, items: Sequence[str], generated: Sequence[str]) -> list[str | Messages]:
        return [[{"role": "user", "content": f"{text}?"}] for text in generated]

    def confirms(self, example: Example, reply: str) -> bool:
        return len(reply) % 2 == 0


class SaidLetters(Letters):
    """Prompts and rows are messages."""

    prefix = ""

    def prompts(self, items: Sequence[str]) -> list[str | Messages]:
        return [[{"role": "user", "content": f"Say {item}"}] for item in items]

    def _row(self, item: str, text: str) -> Example | Reject:
        return Example([{"role": "user", "content": f"{text}?"}], item, facts={"letter": item})


@dataclass
class ToldLetters(Letters):
    """The base is told the answer in distillation, after `notes` words about something else."""

    choices: bool = False
    notes: int = 3

    def _row(self, item: str, text: str) -> Example | Reject:
        row = Letters._row(self, item, text)
        return (
            row
            if isinstance(row, Reject)
            else replace(row, context="flour " * (self.notes - 3) + self.told(row.target))
        )

    @staticmethod
    def told(target: str) -> str:
        return f"The answer is {target}. What is the answer?"
