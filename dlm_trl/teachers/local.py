"""A model on this machine as a teacher: `LocalTeacher(model, tokenizer, "hf:tiny", revision, context)`.

`open.load_teacher` loads one. Requests go through the model in batches, and each batch's replies come when it is done.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence

from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.chat import encode, require_template
from dlm_trl.models.generate import TOKEN_BUDGET, generate_batches, row_seed
from dlm_trl.notes.errors import DlmError
from dlm_trl.teachers.protocol import Reply, Request, Usage


class LocalTeacher:
    """A `Teacher` around a loaded model; context is the longest prompt and reply together, None for no bound.

    The noise of a sampled reply comes from its request's key and seed, so the same request gets the same reply whatever
    is asked beside it, but for the rounding of the model's arithmetic. A reply's seconds are its part of its batch's,
    so that they add up to the time that passed. A request's schema is not used. token_budget bounds a batch, as in
    `models.generate`. Raises DlmError (ChatTemplateError) for a tokenizer without a chat template.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        reference: str,
        revision: str,
        context: int | None,
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        require_template(tokenizer, f"The teacher {reference}")
        self.model = model
        self.tokenizer = tokenizer
        self.reference = reference
        self.revision = revision
        self.context = context
        self.token_budget = token_budget

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        """As `Teacher.generate`. A reply has an error where the chat template refuses the messages, or the prompt does
        not fit the context or the memory.
        """
        alike: dict[tuple[int, float, float], list[tuple[Request, list[int]]]] = defaultdict(list)
        for request in requests:
            try:
                prompt = encode(self.tokenizer, request.messages, self.reference)
            except DlmError as error:
                yield Reply(request.key, error=str(error))
                continue
            if self.context is not None and len(prompt) + request.max_new_tokens > self.context:
                room = f"{len(prompt)} tokens and {request.max_new_tokens} new ones are more than the {self.context}"
                yield Reply(request.key, error=f"The prompt is too long: {room} that {self.reference} can hold.")
                continue
            top_p = 1.0 if request.top_p is None else request.top_p
            alike[request.max_new_tokens, request.temperature, top_p].append((request, prompt))
        for settings, rows in alike.items():
            yield from self._replies(rows, *settings)

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of the prompt. Raises DlmError (ChatTemplateError) where the chat template refuses the messages."""
        return len(encode(self.tokenizer, messages, self.reference))

    def _replies(
        self, rows: list[tuple[Request, list[int]]], max_new_tokens: int, temperature: float, top_p: float
    ) -> Iterator[Reply]:
        rows = sorted(rows, key=lambda row: -len(row[1]))
        while rows:
            batches = generate_batches(
                self.model,
                self.tokenizer,
                [prompt for _, prompt in rows],
                max_new_tokens,
                temperature,
                top_p,
                seed=[row_seed(request.key, request.seed) for request, _ in rows],
                token_budget=self.token_budget,
            )
            done = 0
            try:
                started = time.perf_counter()
                for batch in batches:
                    seconds = (time.perf_counter() - started) / len(batch)
                    for index, text, new_tokens in batch:
                        request, prompt = rows[index]
                        yield Reply(request.key, text, Usage(len(prompt), new_tokens), seconds)
                    done += len(batch)
                    started = time.perf_counter()
                return
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            # Batches are halved before that; so it is a single row, the longest of those that are left.
            request, prompt = rows[done]
            yield Reply(request.key, error=f"Memory ran out for this prompt of {len(prompt)} tokens alone.")
            rows = rows[done + 1 :]
