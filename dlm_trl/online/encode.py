"""Encode examples as tokens and labels, and take a collated batch apart again.

    encoded = encode(example, tokenizer, max_length=1024)     # Encoded, or Reject("too long")
    batch = trainer.data_collator([encoded.row, *rows_of(document_batch)])

Masks go by position, never by token id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


def rows_of(batch: Mapping[str, torch.Tensor]) -> list[dict[str, list[int]]]:
    """The rows of a collated batch, right-padded or padding-free (concatenated); a packed row is taken apart."""
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        parts = [(row, 0, length) for row, length in enumerate(lengths)]
    else:
        starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        ends = [*starts[1:], batch["input_ids"].shape[1]]
        # A single token has nothing to predict: it pads the batch to a multiple of some length.
        parts = [(0, start, end) for start, end in zip(starts, ends, strict=True) if end - start > 1]
    return [{name: batch[name][row, a:b].tolist() for name in ("input_ids", "labels")} for row, a, b in parts]


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
