"""An `Example` becomes tokens and labels, and a collated batch becomes rows again.

    encoded = encode(example, tokenizer, max_length=1024)     # Encoded, or Reject("too long")
    batch = trainer.data_collator([encoded.row, *rows_of(document_batch)])

Masks go by position, never by token id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from dlm_trl.models.chat import encode_answered, require_template
from dlm_trl.models.tokenize import IGNORED
from dlm_trl.notes.errors import ChatTemplateError, UsageError
from dlm_trl.tasks.protocol import Example, Reject


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a row; the loss is on those from `start` on."""

    input_ids: list[int]
    start: int
    choices: tuple[int, ...] = ()  # one token each, in the order of the example's; () where that cannot be had

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * self.start + self.input_ids[self.start :]

    @property
    def row(self) -> dict[str, list[int]]:
        """As a collator takes it."""
        return {"input_ids": self.input_ids, "labels": self.labels}


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Encoded | Reject:
    """The example's tokens, with the special tokens that the tokenizer puts before a text.

    Raises DlmError (ChatTemplateError) for messages that the chat template does not render with the answer right
    behind, and (UsageError) where a loss over the choices is asked for and they are not one token each.
    """
    if isinstance(example.prompt, str):
        prompt = tokenizer(example.prompt)["input_ids"]
        target = tokenizer(example.target, add_special_tokens=False)["input_ids"]
    else:
        require_template(tokenizer, "The base")
        whole, start = encode_answered(tokenizer, example.prompt, example.target)
        prompt, target = whole[:start], whole[start:]
        if not target:
            raise ChatTemplateError("The chat template leaves the answer out.", "Use another chat template.")
    if max_length is not None and len(prompt) + len(target) > max_length:
        return Reject("too long")
    return Encoded(prompt + target, len(prompt), _choices(example, tokenizer, target))


def rows_of(batch: Mapping[str, torch.Tensor]) -> list[dict[str, list[int]]]:
    """The rows that a collator made a batch of: padded on the right, or one behind the other (padding-free).

    A packed row counts as the rows that it is packed from.
    """
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        parts = [(row, 0, length) for row, length in enumerate(lengths)]
    else:
        starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
        ends = [*starts[1:], batch["input_ids"].shape[1]]
        # A single token has nothing to predict; it is padding to a multiple of some length.
        parts = [(0, start, end) for start, end in zip(starts, ends, strict=True) if end - start > 1]
    return [{name: batch[name][row, a:b].tolist() for name in ("input_ids", "labels")} for row, a, b in parts]


def _choices(example: Example, tokenizer: PreTrainedTokenizerBase, target: list[int]) -> tuple[int, ...]:
    if not example.choices:
        return ()
    tokens = tokenizer(list(example.choices), add_special_tokens=False)["input_ids"]
    ids = tuple(t[0] for t in tokens if len(t) == 1)
    whole = len(set(ids)) == len(example.choices)
    if whole and target[0] == ids[example.choices.index(example.target)]:
        return ids
    if example.loss == "labels":
        raise UsageError(
            f"The choices {example.choices} are not one token each where they stand, all different.",
            hint="Use loss='full', or other labels.",
        )
    return ()
