"""Rows of a task, written for a step: `write_rows(task, author, encode, seed=0, step=3, indices=range(160))`.

Draw, prompts, generate, examples, and the check where the task has one; a rejected row is drawn again under the next
attempt's number. A row is a function of (seed, step, index, attempt), so it is the same on any process, alone or among
others, in a run that was resumed and in a replay.
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
from dlm_trl.tasks.protocol import CheckedTask, Example, Item, Reject, Task

ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Draft:
    """What was written for a row in one attempt: its example and tokens, or why there is none."""

    index: int  # of the row in the step's global batch
    attempt: int
    generated: str
    outcome: Example | Reject
    encoded: Encoded | None = None

    def record(self, task: Task, step: int) -> dict[str, Any]:
        """As a line of JSON, in the same columns whatever the task; `input_ids` is null for a rejected draft."""
        example = self.outcome if isinstance(self.outcome, Example) else None
        return {
            "step": step,
            "index": self.index,
            "attempt": self.attempt,
            "task": task.name,
            "generated": self.generated,
            "rejected": self.outcome.reason if example is None else None,
            "prompt": example and example.prompt,
            "target": example and example.target,
            "choices": example and list(example.choices),
            "loss": example and example.loss,
            "facts": example and json.dumps(dict(example.facts), ensure_ascii=False),
            "input_ids": self.encoded and self.encoded.input_ids,
            "labels": self.encoded and self.encoded.labels,
        }


class Written(NamedTuple):
    """Every draft, those of a later attempt behind; each index has at most one that is encoded, its last."""

    drafts: list[Draft]
    new_tokens: int  # that the author wrote for all of them


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
    """Rows for these indices of the step's global batch; none where every attempt was rejected."""
    before = author.new_tokens
    drafts: list[Draft] = []
    pending = list(indices)
    for attempt in range(attempts):
        if not author.anyone(bool(pending)):
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
    kept = [row for row, outcome in enumerate(outcomes) if isinstance(outcome, Example)]
    asked = task.check_prompts([items[row] for row in kept], [generated[row] for row in kept]) if kept else []
    replies = _ask(author, task, asked, [seeds[row] for row in kept], 0.0)
    checked = list(outcomes)
    for row, reply in zip(kept, replies, strict=True):
        if reply is None or not task.confirms(outcomes[row], reply):
            checked[row] = Reject("not confirmed")
    return checked


def _ask(author: Author, task: Task, prompts: Sequence[Any], seeds: Sequence[int], temperature: float) -> list[Any]:
    if task.max_new_tokens == 0:  # nothing is asked of anyone
        return [""] * len(prompts)
    return author.write(task, prompts, seeds, temperature)
