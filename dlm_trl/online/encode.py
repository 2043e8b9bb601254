"""Encode examples as tokens and labels, and take a collated batch apart again.

    encoded = encode(example, tokenizer, max_length=1024)     # Encoded, or Reject("too long")
    batch = trainer.data_collator([encoded.row, *rows_of(document_batch)])

Masks go by position, never by token id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase

from dlm_trl.models.chat import encode_answered, missing_text, require_template
from dlm_trl.models.control_tokens import encode_text, encode_texts
from dlm_trl.models.tokenize import IGNORED
from dlm_trl.notes.errors import ChatTemplateError, UsageError
from dlm_trl.tasks.protocol import Example, Reject


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a row. The loss begins at index `start`."""

    input_ids: list[int]
    start: int
    choices: tuple[int, ...] = ()  # the token of each of the example's choices; () if they aren't single tokens
    context: tuple[int, ...] = ()  # what the base reads instead of the prompt, in context distillation

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * self.start + self.input_ids[self.start :]

    @property
    def row(self) -> dict[str, list[int]]:
        """The row, for a collator."""
        return {"input_ids": self.input_ids, "labels": self.labels}


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Encoded | Reject:
    """The example's tokens, including the special tokens that the tokenizer puts before a text.

    Raises DlmError: ChatTemplateError if the chat template doesn't render the answer after the messages,
    UsageError for loss="labels" if the choices aren't single, different tokens.
    """
    if isinstance(example.prompt, str):
        prompt = encode_text(tokenizer, example.prompt, add_special_tokens=True)
        target = encode_text(tokenizer, example.target)
    else:
        require_template(tokenizer, "The base")
        ids, start = encode_answered(tokenizer, example.prompt, example.target)
        prompt, target = ids[:start], ids[start:]
        if missing_text(tokenizer, target, [example.target]) is not None:
            raise ChatTemplateError("The chat template drops or changes the answer.", "Use another chat template.")
    if max_length is not None and len(prompt) + len(target) > max_length:
        return Reject("too long")
    return Encoded(prompt + target, len(prompt), _choices(example, tokenizer, target))


def with_context(
    encoded: Encoded, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> Encoded | Reject:
    """The same row with the tokens of its example's context, if it has one; raises like `encode`.

    max_length: the tokens that the base can read, context and answer.
    """
    if example.context is None:
        return encoded
    if isinstance(example.context, str):
        context = encode_text(tokenizer, example.context, add_special_tokens=True)
    else:
        ids, start = encode_answered(tokenizer, example.context, example.target)
        context = ids[:start]
    if max_length is not None and len(context) + len(encoded.input_ids) - encoded.start > max_length:
        return Reject("context too long")
    return replace(encoded, context=tuple(context))


def spans(batch: Mapping[str, torch.Tensor]) -> list[tuple[int, int, int]]:
    """The line, first token and end of each row of a collated batch, right-padded or padding-free (concatenated)."""
    if "attention_mask" in batch:
        return [(line, 0, length) for line, length in enumerate(batch["attention_mask"].sum(1).tolist())]
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], batch["input_ids"].shape[1]]
    # A single token has nothing to predict: it pads the batch to a multiple of some length.
    return [(0, start, end) for start, end in zip(starts, ends, strict=True) if end - start > 1]


def rows_of(batch: Mapping[str, torch.Tensor]) -> list[dict[str, list[int]]]:
    """The rows of a collated batch; a packed row is taken apart."""
    names = ("input_ids", "labels")
    return [{name: batch[name][line, a:b].tolist() for name in names} for line, a, b in spans(batch)]


def _choices(example: Example, tokenizer: PreTrainedTokenizerBase, target: list[int]) -> tuple[int, ...]:
    if not example.choices:
        return ()
    tokens = encode_texts(tokenizer, example.choices)
    ids = tuple(t[0] for t in tokens if len(t) == 1)
    all_single = len(set(ids)) == len(example.choices)
    if all_single and target[0] == ids[example.choices.index(example.target)]:
        return ids
    if example.loss == "labels":
        raise UsageError(
            f"The choices {example.choices} are not one token each after this prompt, or not all different.",
            hint="Use loss='full', or other labels.",
        )
    return ()
