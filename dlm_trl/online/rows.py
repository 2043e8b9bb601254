"""Write a task's rows for a step: `write_rows(task, author, encode, seed=0, step=3, indices=range(160))`.

Draw, prompt, generate, build examples, and check them if the task has a check. A rejected row is drawn again with the
next attempt's number. A row depends only on (seed, step, index, attempt), so it is the same in any process, alone or in
a batch, in a resumed run, and in a replay.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dlm_trl.models.generate import row_seed
from dlm_trl.online.authors import Author
from dlm_trl.online.encode import Encoded
from dlm_trl.tasks.protocol import CheckedTask, Example, Item, Messages, Reject, Task

ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Draft:
    """One attempt at a row: its example and tokens, or the reason for its rejection."""

    index: int  # in the step's global batch
    attempt: int
    generated: str
    outcome: Example | Reject
    encoded: Encoded | None = None

    def record(self, task: Task, step: int) -> dict[str, Any]:
        """The draft as JSON, with the same keys for every task; `input_ids` is null for a rejected draft."""
        example, reject = (self.outcome, None) if isinstance(self.outcome, Example) else (None, self.outcome)
        return {
            "step": step,
            "index": self.index,
            "attempt": self.attempt,
            "task": task.name,
            "generated": self.generated,
            "rejected": reject and reject.reason,
            "prompt": example and example.prompt,
            "target": example and example.target,
            "choices": example and list(example.choices),
            "loss": example and example.loss,
            "facts": example and json.dumps(dict(example.facts), ensure_ascii=False),
            "input_ids": self.encoded and self.encoded.input_ids,
            "labels": self.encoded and self.encoded.labels,
        }


class Written(NamedTuple):
    """All drafts, in the order of attempts; at most one per index is encoded, its last."""

    drafts: list[Draft]
    new_tokens: int  # generated for all of them


def write_rows(
    task: Task,
    author: Author,
    encode: Callable[[Example], Encoded | Reject],
    *,
    seed: int,
    step: int,
    indices: Iterable[int],
    attempts: int = ATTEMPTS,
) -> Written:
    """The drafts for these indices of the step's global batch; an index may be rejected in every attempt."""
    before = author.new_tokens
    drafts: list[Draft] = []
    pending = list(indices)
    for attempt in range(attempts):
        if not author.must_continue(bool(pending)):
            break
        seeds = [row_seed(seed, step, index, attempt) for index in pending]
        items = [task.draw(random.Random(s), 1)[0] for s in seeds]
        written = _ask(author, task, task.prompts(items) if items else [], seeds, task.temperature)
        generated = [text or "" for text in written]
        outcomes = task.examples(items, generated) if items else []
        outcomes = [
            Reject("no reply") if text is None else outcome for text, outcome in zip(written, outcomes, strict=True)
        ]
        if isinstance(task, CheckedTask):
            outcomes = _checked(task, author, items, generated, outcomes, seeds)
        last = [
            _draft(index, attempt, text, outcome, encode)
            for index, text, outcome in zip(pending, generated, outcomes, strict=True)
        ]
        drafts += last
        pending = [draft.index for draft in last if draft.encoded is None]
    return Written(drafts, author.new_tokens - before)


def _draft(
    index: int,
    attempt: int,
    generated: str,
    outcome: Example | Reject,
    encode: Callable[[Example], Encoded | Reject],
) -> Draft:
    encoded = outcome if isinstance(outcome, Reject) else encode(outcome)
    if isinstance(encoded, Reject):
        return Draft(index, attempt, generated, encoded)
    return Draft(index, attempt, generated, outcome, encoded)


def _checked(
    task: CheckedTask,
    author: Author,
    items: Sequence[Item],
    generated: Sequence[str],
    outcomes: Sequence[Example | Reject],
    seeds: Sequence[int],
) -> list[Example | Reject]:
    """The outcomes after the second, greedy round."""
    examples = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, Example)}
    prompts = (
        task.check_prompts([items[row] for row in examples], [generated[row] for row in examples]) if examples else []
    )
    replies = _ask(author, task, prompts, [seeds[row] for row in examples], 0.0)
    checked = list(outcomes)
    for (row, example), reply in zip(examples.items(), replies, strict=True):
        if reply is None or not task.confirms(example, reply):
            checked[row] = Reject("not confirmed")
    return checked


def _ask(
    author: Author, task: Task, prompts: Sequence[str | Messages], seeds: Sequence[int], temperature: float
) -> Sequence[str | None]:
    if task.max_new_tokens == 0:  # the task doesn't use an author
        return [""] * len(prompts)
    return author.write(task, prompts, seeds, temperature)
