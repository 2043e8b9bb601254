"""Who writes the texts: the frozen base inside the model in training, or any teacher of `dlm_trl.teachers`.

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
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.frozen import frozen
from dlm_trl.models.generate import generate_batches
from dlm_trl.models.prefix import PrefixCache, common_prefix
from dlm_trl.models.sharding import is_sharded
from dlm_trl.tasks.protocol import Messages, Task
from dlm_trl.teachers.protocol import Request, Teacher

TOKEN_BUDGET = 65_536  # usually one batch per step; a batch that exceeds the memory is halved


class Author(Protocol):
    """The interface of an author. new_tokens: how many tokens it has generated so far."""

    new_tokens: int

    def write(
        self, task: Task, prompts: Sequence[str | Messages], seeds: Sequence[int], temperature: float
    ) -> list[str | None]:
        """The text after each prompt, cut before the task's first stop string; None if the author failed."""
        ...

    def must_continue(self, waiting: bool) -> bool:
        """Whether to continue: this process is waiting for rows, or, with sharded weights, any process is."""
        ...


class FrozenBase:
    """The base of a model, with its adapter, if any, switched off."""

    def __init__(self, model: PeftModel | PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.new_tokens = 0
        self._prefix: PrefixCache | None = None

    def write(
        self, task: Task, prompts: Sequence[str | Messages], seeds: Sequence[int], temperature: float
    ) -> list[str | None]:
        tokens = [self._tokens(prompt) for prompt in prompts]
        in_step = self._in_step
        texts: dict[int, str] = {}
        with frozen(self.model) if isinstance(self.model, PeftModel) else nullcontext(self.model) as base:
            batches = generate_batches(
                base,
                self.tokenizer,
                # With sharded weights, a process without prompts has to take part.
                tokens or [[self.tokenizer.eos_token_id or 0]] * in_step,
                task.max_new_tokens,
                temperature,
                stop=task.stop,
                seed=list(seeds) or [0] * in_step,
                # One batch, since all processes need the same number of batches.
                token_budget=2**62 if in_step else TOKEN_BUDGET,
                prefix=None if in_step or not tokens else self._prefix_cache(base, task.prefix, tokens),
            )
            for batch in batches:
                texts |= {generated.row: generated.text for generated in batch}
                self.new_tokens += sum(generated.new_tokens for generated in batch) if tokens else 0
        return [texts[row] for row in range(len(tokens))]

    def must_continue(self, waiting: bool) -> bool:
        if not self._in_step:
            return waiting
        flag = torch.tensor([int(waiting)], device=self.model.device)
        torch.distributed.all_reduce(flag)
        return bool(flag)

    @property
    def _in_step(self) -> bool:
        """Whether all processes have to generate in step."""
        return is_sharded(self.model) and torch.distributed.is_initialized()

    def _tokens(self, prompt: str | Messages) -> list[int]:
        if isinstance(prompt, str):
            return encode_text(self.tokenizer, prompt, add_special_tokens=True)
        require_template(self.tokenizer, "The base")
        return encode(self.tokenizer, prompt, "the base")

    def _prefix_cache(self, base: PreTrainedModel, prefix: str, prompts: Sequence[list[int]]) -> PrefixCache | None:
        """The cache of the task's prefix, as far as the prompts begin with its tokens: the last one may differ."""
        if not prefix:
            return None
        tokens = common_prefix([[*self._tokens(prefix), 0], *prompts])
        if self._prefix is None or list(self._prefix.tokens) != tokens:
            self._prefix = PrefixCache.of(base, tokens) if tokens else None
        return self._prefix


class AskedTeacher:
    """A local teacher or a server. It gets messages; a text becomes a single user message."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.new_tokens = 0

    def write(
        self, task: Task, prompts: Sequence[str | Messages], seeds: Sequence[int], temperature: float
    ) -> list[str | None]:
        requests = [
            Request(
                key=str(seed),  # a local teacher samples from it
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

    def must_continue(self, waiting: bool) -> bool:
        return waiting


def _cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]
