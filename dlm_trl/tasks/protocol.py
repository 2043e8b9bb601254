"""The task protocol: four methods, about 30 lines for your own task.

    items = task.draw(rng, 160)                  # the answers come first
    prompts = task.prompts(items)                # for the frozen base
    rows = task.examples(items, generated)       # one Example or Reject per item
    task.metrics(examples, predictions)          # numbers for the log

A row depends only on the base and on (seed, step, index in the global batch, attempt), with which
`models.generate.row_seed` seeds `rng`. So a task keeps no state and has no other source of randomness.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from dlm_trl.notes.errors import DlmError, TaskError

Messages = Sequence[Mapping[str, str]]
Item = Any  # whatever the task draws; nothing else looks inside
_STAND_IN = "What is it?"  # for the text of a base, in a smoke test


@dataclass(frozen=True, slots=True)
class Example:
    """One training row. The loss is on `target` only, which directly follows `prompt`.

    A text prompt and its target are tokenised separately and joined, with nothing added. After messages, the target is
    the assistant's turn, including its end.

    loss: "full" is cross-entropy over the vocabulary; "labels" is over the tokens of `choices` only, each of which must
    be a single token. context: what the base reads instead of the prompt in context distillation, such as the question
    with the text that answers it (see `online.distillation`); unused otherwise.
    """

    prompt: str | Messages
    target: str
    choices: tuple[str, ...] = ()  # all possible targets, in order; () for an open question
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the log: word, description, options, …
    loss: Literal["full", "labels"] = "full"
    context: str | Messages | None = None

    def __post_init__(self) -> None:
        if not self.target:
            raise ValueError("an example needs a target")
        if self.choices and self.target not in self.choices:
            raise ValueError(f"the target {self.target!r} isn't one of the choices {self.choices}")
        if self.loss == "labels" and not self.choices:
            raise ValueError("loss 'labels' needs choices")


@dataclass(frozen=True, slots=True)
class Reject:
    """No row: the loop draws again, with the next attempt's number."""

    reason: str  # a few words; the log counts rejects by reason


class Task(Protocol):
    """The interface of a task. Every list has one element per item, in the same order."""

    name: str
    prefix: str  # what every text prompt begins with, or ""; its KV cache is computed once
    stop: tuple[str, ...]
    max_new_tokens: int  # 0 if the task doesn't need the base: `generated` is then all ""
    temperature: float

    def draw(self, rng: random.Random, n: int) -> list[Item]:
        """`n` items, each with its answer; `rng` is the only source of randomness."""
        ...

    def prompts(self, items: Sequence[Item]) -> list[str | Messages]:
        """The prompts for the frozen base: whole texts, prefix included, or messages."""
        ...

    def examples(self, items: Sequence[Item], generated: Sequence[str]) -> list[Example | Reject]:
        """A row per item. generated: the base's texts, cut before the first stop string."""
        ...

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        """Numbers for the log.

        A prediction is the most likely choice of its example. Without choices, it's the most likely token at each
        position of the target, given the target's tokens before it.
        """
        ...


@runtime_checkable
class CheckedTask(Task, Protocol):
    """A task whose rows the frozen base checks in a second, greedy round."""

    def check_prompts(self, items: Sequence[Item], generated: Sequence[str]) -> list[str | Messages]:
        """Prompts that the base should answer with the target; called for the items that have an example."""
        ...

    def confirms(self, example: Example, reply: str) -> bool:
        """Whether the reply matches the target; if not, the row is rejected."""
        ...


def smoke_test(task: Task, name: str, seed: int) -> tuple[list[str | Messages], list[Example]]:
    """Run a task once, with a fixed text instead of the base's; returns its prompts and examples.

    Raises DlmError: TaskError for any exception of a user's task, and whatever DlmError the task raises.
    """
    generated = [_STAND_IN if task.max_new_tokens else ""]
    try:
        items = task.draw(random.Random(seed), 1)
        prompts = [*task.prompts(items)]
        if isinstance(task, CheckedTask):
            prompts += task.check_prompts(items, generated)
        examples = [example for example in task.examples(items, generated) if isinstance(example, Example)]
        task.metrics(examples, [example.target for example in examples])
    except DlmError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise TaskError(
            f"The task {name} fails: {type(error).__name__}: {' '.join(str(error).split())}",
            hint="Fix the task or its options.",
        ) from error
    return prompts, examples


def accuracy(examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
    """`accuracy`, the share of correct predictions, and `chance`, the accuracy of guessing among the choices.

    Without choices there is no `chance`; without examples there are no metrics.
    """
    if not examples:
        return {}
    correct = [e.target.strip() == p.strip() for e, p in zip(examples, predictions, strict=True)]
    metrics = {"accuracy": sum(correct) / len(correct)}
    if all(e.choices for e in examples):
        metrics["chance"] = sum(1 / len(e.choices) for e in examples) / len(examples)
    return metrics
