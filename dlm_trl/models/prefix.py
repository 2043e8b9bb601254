"""Keys and values of what many prompts begin with, computed once: `PrefixCache.of(model, tokens)`.

    prefix = PrefixCache.of(model, common_prefix([few_shot, *prompts]))
    generate_batches(model, tokenizer, prompts, 32, prefix=prefix)

It holds as long as the weights do: for a frozen base, the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from dlm_trl.models.batching import evaluating

WORTHWHILE = 256  # tokens that are not computed twice; fewer cost less than one more pass of the model


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """tokens, and for each layer of the model their keys and values, (1, heads, tokens, head size) each."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, tokens: Sequence[int]) -> PrefixCache | None:
        """The cache after these tokens; None for a model that keeps anything else than all keys and values."""
        with evaluating(model):
            rows = torch.tensor([list(tokens)], device=model.device)
            output = model(input_ids=rows, use_cache=True, logits_to_keep=1)
        cache = output.get("past_key_values")
        if type(cache) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        return cls(tuple(tokens), tuple((layer.keys, layer.values) for layer in cache.layers))

    def repeat(self, rows: int, tokens: int) -> DynamicCache:
        """A cache for this many rows, with room for this many tokens in each, those of the prefix among them."""
        cache = DynamicCache()
        cache.layers = [
            PreallocatedLayer([part.expand(rows, -1, -1, -1) for part in layer], tokens) for layer in self.layers
        ]
        return cache


class PreallocatedLayer(DynamicLayer):
    """A layer's keys and values in memory that has room for the tokens to come.

    A new token is written to its place; `DynamicLayer` copies all tokens before it, which costs more than to attend
    to them.
    """

    def __init__(self, parts: Sequence[torch.Tensor], tokens: int) -> None:
        super().__init__()
        self.lazy_initialization(*parts)
        rows, heads, *_ = parts[0].shape
        self.memory = [part.new_empty(rows, heads, tokens, part.shape[-1]) for part in parts]
        self._write(0, parts)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._write(self.get_seq_length(), (key_states, value_states))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        length = self.get_seq_length()
        self.memory = [part.index_select(0, beam_idx) for part in self.memory]
        self.keys, self.values = (part[:, :, :length] for part in self.memory)

    def _write(self, start: int, parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        end = start + parts[0].shape[-2]
        for memory, part in zip(self.memory, parts, strict=True):
            memory[:, :, start:end] = part
        self.keys, self.values = (memory[:, :, :end] for memory in self.memory)
        return self.keys, self.values


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with, but at least one less than the shortest of them has."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return [column[0] for column in columns][: min(map(len, prompts)) - 1]


def families(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of the rows in groups, each of rows whose beginning is worth computing once; the last group holds the
    rows that are like no others.

    In sorted order, a row is like the one before it if they have a third of the longer one in common: two questions
    about one text are, two about different texts in the same chat template are not.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: list(rows[i])):
        before = rows[groups[-1][-1]] if groups else []
        if groups and 3 * len(common_prefix([before, rows[i]])) >= max(len(before), len(rows[i])):
            groups[-1].append(i)
        else:
            groups.append([i])
    large: list[list[int]] = []
    others: list[int] = []
    for group in groups:
        saved = (len(group) - 1) * len(common_prefix([rows[i] for i in group]))
        if saved >= WORTHWHILE:
            large.append(group)
        else:
            others += group
    return [*large, others] if others else large
