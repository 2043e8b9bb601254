"""Who writes the questions: the frozen base inside the model that is trained, or any teacher of `dlm_trl.teachers`.

author = FrozenBase(model, tokenizer)          # or AskedTeacher(teacher)
texts = author.write(task, task.prompts(items), seeds, task.temperature)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.chat import encode, require_template
from dlm_trl.models.frozen import frozen
from dlm_trl.models.generate import generate_batches, is_sharded
from dlm_trl.models.prefix import PrefixCache, common_prefix
from dlm_trl.tasks.protocol import Messages, Task
from dlm_trl.teachers.protocol import Request, Teacher

TOKEN_BUDGET = 65_536  # of a batch, so that a step's rows are one as a rule; halved where memory is too small for it


class Author(Protocol):
    """new_tokens: how many tokens it has written so far."""

    new_tokens: int

    def write(
        self, task: Task, prompts: Sequence[str | Messages], seeds: Sequence[int], temperature: float
    ) -> list[str | None]:
        """The text after each prompt, cut before the task's first stop string; None where the author failed."""

    def anyone(self, waiting: bool) -> bool:
        """Whether this process has to go on asking: because it waits for rows, or because others need its company."""


class FrozenBase:
    """The base of the model, its adapter switched off where it has one."""

    def __init__(self, model: PeftModel | PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.new_tokens = 0
        self._prefix: PrefixCache | None = None

    def write(
        self, task: Task, prompts: Sequence[str | Messages], seeds: Sequence[int], temperature: float
    ) -> list[str | None]:
        tokens = [self._tokens(prompt) for prompt in prompts]
        together = self._together
        texts: dict[int, str] = {}
        with frozen(self.model) if isinstance(self.model, PeftModel) else nullcontext(self.model) as base:
            batches = generate_batches(
                base,
                self.tokenizer,
                # A process without prompts generates all the same when the others cannot do it alone.
                tokens or [[self.tokenizer.eos_token_id or 0]] * together,
                task.max_new_tokens,
                temperature,
                stop=task.stop,
                seed=list(seeds) or [0] * together,
                # Together means the same number of batches for each.
                token_budget=2**62 if together else TOKEN_BUDGET,
                prefix=None if together or not tokens else self._shared(base, task.prefix, tokens),
            )
            for batch in batches:
                texts |= {row.index: row.text for row in batch}
                self.new_tokens += sum(row.new_tokens for row in batch) if tokens else 0
        return [texts[index] for index in range(len(tokens))]

    def anyone(self, waiting: bool) -> bool:
        if not self._together:
            return waiting
        flag = torch.tensor([int(waiting)], device=self.model.device)
        torch.distributed.all_reduce(flag)
        return bool(flag)

    @property
    def _together(self) -> bool:
        return is_sharded(self.model) and torch.distributed.is_initialized()

    def _tokens(self, prompt: str | Messages) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        require_template(self.tokenizer, "The base")
        return encode(self.tokenizer, prompt, "the base")

    def _shared(self, base: torch.nn.Module, prefix: str, prompts: Sequence[list[int]]) -> PrefixCache | None:
        """The cache of the task's prefix; its last token may be another one in front of a prompt, so it is compared."""
        if not prefix:
            return None
        tokens = common_prefix([self.tokenizer(prefix)["input_ids"] + [0], *prompts])
        if self._prefix is None or list(self._prefix.tokens) != tokens:
            self._prefix = PrefixCache.of(base, tokens) if tokens else None
        return self._prefix


class AskedTeacher:
    """A teacher, local or behind a server. It is asked in messages: a text is the one message of a conversation."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.new_tokens = 0

    def write(
        self, task: Task, prompts: Sequence[str | Messages], seeds: Sequence[int], temperature: float
    ) -> list[str | None]:
        requests = [
            Request(
                key=str(seed),  # a local teacher's noise comes from it
                messages=[{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt),
                max_new_tokens=task.max_new_tokens,
                temperature=temperature,
                seed=seed % 2**31,
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        texts: dict[str, str] = {}
        for reply in self.teacher.generate(requests) if requests else ():
            self.new_tokens += reply.usage.completion_tokens
            if reply.error is None:
                texts[reply.key] = _cut(reply.text.strip(), task.stop)
        return [texts.get(request.key) for request in requests]

    def anyone(self, waiting: bool) -> bool:
        return waiting


def _cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]
