"""A local model as a teacher: `LocalTeacher(model, tokenizer, "hf:tiny", revision, context)`.

`load.load_teacher` creates one. Requests run in batches, and each batch's replies come as soon as it is done.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.chat import encode, require_template
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.generate import TOKEN_BUDGET, generate_batches, row_seed
from dlm_trl.models.guidance import can_guide
from dlm_trl.notes.errors import DlmError, OutOfMemoryError
from dlm_trl.teachers.protocol import Reply, Request, Usage


class LocalTeacher:
    """A `Teacher` with a loaded model.

    context: the most tokens that prompt and reply may have together, None for no limit. token_budget: bounds a batch,
    as in `models.generate`. Sampling is seeded with a request's key and seed, so the same request gets the same reply
    in any batch, up to the rounding of the model's arithmetic. A reply's seconds are its share of its batch's, so they
    add up to the elapsed time. With llguidance, replies keep to their request's schema; `guided` says whether it is
    there. Raises DlmError (ChatTemplateError) for a tokenizer without a chat template.
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
        self.guided = can_guide(tokenizer)

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        """See `Teacher.generate`.

        A reply has an error if the chat template refuses its messages, or its prompt exceeds the context or the memory.
        """
        groups: dict[tuple[int, float, float, tuple[str, ...], str], list[tuple[Request, list[int]]]] = defaultdict(
            list
        )
        for request in requests:
            try:
                prompt = encode(self.tokenizer, request.messages, self.reference)
                prompt += encode_text(self.tokenizer, request.opening)
            except DlmError as error:
                yield Reply(request.key, error=str(error))
                continue
            if self.context is not None and len(prompt) + request.max_new_tokens > self.context:
                needed = f"{len(prompt)} prompt tokens and {request.max_new_tokens} new tokens"
                yield Reply(
                    request.key, error=f"The prompt is too long for {self.reference}: {needed} exceed {self.context}."
                )
                continue
            top_p = 1.0 if request.top_p is None else request.top_p
            schema = json.dumps(request.schema) if self.guided else "null"
            groups[request.max_new_tokens, request.temperature, top_p, request.stop, schema].append((request, prompt))
        for sampling, rows in groups.items():
            yield from self._replies(rows, *sampling)

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of the prompt. Raises DlmError (ChatTemplateError) if the chat template refuses the messages."""
        return len(encode(self.tokenizer, messages, self.reference))

    def _replies(
        self,
        rows: list[tuple[Request, list[int]]],
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        stop: tuple[str, ...],
        schema: str,
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
                stop,
                seed=[row_seed(request.key, request.seed) for request, _ in rows],
                token_budget=self.token_budget,
                schema=json.loads(schema),
            )
            done = 0
            try:
                started = time.perf_counter()
                for batch in batches:
                    seconds = (time.perf_counter() - started) / len(batch)
                    for generated in batch:
                        request, prompt = rows[generated.row]
                        usage = Usage(len(prompt), generated.new_tokens)
                        yield Reply(request.key, generated.text, usage, seconds)
                    done += len(batch)
                    started = time.perf_counter()
                return
            except OutOfMemoryError:
                pass
            # A batch that exceeds the memory is halved first, so this one is a single row: the longest that is left.
            request, prompt = rows[done]
            yield Reply(request.key, error=f"Out of memory for this prompt alone, of {len(prompt)} tokens.")
            rows = rows[done + 1 :]
