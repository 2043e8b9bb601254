"""What an online task is: four methods, so that a user writes one in 30 lines.

    items = task.draw(rng, 160)                  # the answers come first
    texts = task.prompts(items)                  # what the frozen base is asked
    rows = task.examples(items, generated)       # a training row each, or why there is none
    task.metrics(examples, predictions)          # numbers for the log

A row is a function of (seed, step, index in the global batch, attempt) and of the base alone: `rng` is seeded with
`models.generate.row_seed` of these, so a task keeps no state and takes randomness from nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from dlm_trl.notes.errors import DlmError, TaskError

Messages = Sequence[Mapping[str, str]]
Item = Any  # whatever a task draws; only the task itself looks into it
_MADE_UP = "What is it?"  # in place of what a base writes, where nobody is asked yet


@dataclass(frozen=True, slots=True)
class Example:
    """One training row; the loss is on `target` alone, which stands right behind `prompt`.

    For a text prompt, `target`'s tokens follow the prompt's, each tokenised by itself, and nothing else is added. For
    messages, `target` is the assistant's turn, and its end belongs to it.

    loss: "full" is cross-entropy over the whole vocabulary; "labels" is over the tokens of `choices` alone, each of
    which, like the target, is then one token.
    """

    prompt: str | Messages
    target: str
    choices: tuple[str, ...] = ()  # in order, where the answer is one of a few; each written as `target` is
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the log keeps: word, description, options …
    loss: Literal["full", "labels"] = "full"

    def __post_init__(self) -> None:
        if not self.target:
            raise ValueError("an example has no target: there is nothing to learn")
        if self.choices and self.target not in self.choices:
            raise ValueError(f"the target {self.target!r} is none of the choices {self.choices}")
        if self.loss == "labels" and not self.choices:
            raise ValueError("loss 'labels' needs choices")


@dataclass(frozen=True, slots=True)
class Reject:
    """No row this time: the loop draws again, with the next attempt's number."""

    reason: str  # a few words, few kinds: they are counted in the log


class Task(Protocol):
    """What the loop needs of a task; lists are in the order of `items`, and as long."""

    name: str
    prefix: str  # the text that every text prompt begins with ("" where none): its KV cache is computed once
    stop: tuple[str, ...]
    max_new_tokens: int  # 0 where the base is not asked: `generated` is then all ""
    temperature: float

    def draw(self, rng: random.Random, n: int) -> list[Item]:
        """`n` items, each with its answer; no randomness but `rng`'s."""

    def prompts(self, items: Sequence[Item]) -> list[str | Messages]:
        """What the frozen base is asked, as whole texts (with the prefix) or as messages."""

    def examples(self, items: Sequence[Item], generated: Sequence[str]) -> list[Example | Reject]:
        """`generated` is what the base wrote after the prompts, cut before the first stop string."""

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        """Numbers for the log.

        A prediction is the likeliest of the example's choices; where it has none, the text that is likeliest token by
        token, given the tokens of the target before each.
        """


@runtime_checkable
class CheckedTask(Protocol):
    """What a task offers besides, if its rows are to be checked by the frozen base, in a second and greedy round."""

    def check_prompts(self, items: Sequence[Item], generated: Sequence[str]) -> list[str | Messages]:
        """Prompts whose answer has to be the example's target; only items are asked that `examples` made a row of."""

    def confirms(self, example: Example, reply: str) -> bool:
        """Whether the base's reply gives the target back; the row is rejected if not."""


def smoke_test(task: Task, name: str, seed: int) -> tuple[list[str | Messages], list[Example]]:
    """Go through a task once with a made-up text in place of the base's: its prompts and rows.

    Raises DlmError: TaskError for whatever a user's own task raises, and what the task itself refuses.
    """
    generated = [_MADE_UP if task.max_new_tokens else ""]
    try:
        items = task.draw(random.Random(seed), 1)
        asked = [*task.prompts(items)]
        if isinstance(task, CheckedTask):
            asked += task.check_prompts(items, generated)
        examples = [example for example in task.examples(items, generated) if isinstance(example, Example)]
        task.metrics(examples, [example.target for example in examples])
    except DlmError:
        raise
    except Exception as error:  # whatever a user's own code raises
        raise TaskError(
            f"The task {name} fails: {type(error).__name__}: {' '.join(str(error).split())}",
            hint="Mend the task or its options.",
        ) from error
    return asked, examples


def accuracy(examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that are the target, and what guessing among the choices would reach.

    `chance` is left out where there are no choices; an empty batch has no metrics.
    """
    if not examples:
        return {}
    right = [e.target.strip() == p.strip() for e, p in zip(examples, predictions, strict=True)]
    metrics = {"accuracy": sum(right) / len(right)}
    if all(e.choices for e in examples):
        metrics["chance"] = sum(1 / len(e.choices) for e in examples) / len(examples)
    return metrics
