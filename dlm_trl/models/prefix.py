"""The KV cache of a common beginning of many prompts, computed once: `PrefixCache.of(model, tokens)`.

    prefix = PrefixCache.of(model, common_prefix([few_shot, *prompts]))
    generate_batches(model, tokenizer, prompts, 32, prefix=prefix)

It is valid as long as the weights don't change: for a frozen base, the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from dlm_trl.models.batching import evaluating

MIN_SAVED = 256  # tokens; saving fewer costs more than the extra forward pass


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """layers: keys and values of the tokens, for each layer of the model, (1, heads, tokens, head size) each."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, tokens: Sequence[int]) -> PrefixCache | None:
        """The cache after these tokens; None for a model that caches anything but all keys and values."""
        with evaluating(model):
            rows = torch.tensor([list(tokens)], device=model.device)
            output = model(input_ids=rows, use_cache=True, logits_to_keep=1)
        cache = output.get("past_key_values")
        if type(cache) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        return cls(tuple(tokens), tuple((layer.keys, layer.values) for layer in cache.layers))

    def repeat(self, rows: int, tokens: int) -> DynamicCache:
        """A cache for this many rows, with room for this many tokens per row, prefix included."""
        cache = DynamicCache()
        cache.layers = [
            PreallocatedLayer([part.expand(rows, -1, -1, -1) for part in layer], tokens) for layer in self.layers
        ]
        return cache


class PreallocatedLayer(DynamicLayer):
    """A layer of the cache in preallocated memory.

    New tokens are written in place. `DynamicLayer` copies all previous tokens instead, which costs more than the
    attention to them.
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
    """The tokens that all prompts begin with; at least one token shorter than the shortest prompt."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return [column[0] for column in columns][: min(map(len, prompts)) - 1]


def families(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups of row indices, each with a common beginning worth computing once; the last group has the other rows.

    A row joins the group of the previous one, in sorted order, if they have a third of the longer one in common. Two
    questions about one text do; two about different texts in the same chat template don't.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: list(rows[i])):
        previous = rows[groups[-1][-1]] if groups else []
        if groups and 3 * len(common_prefix([previous, rows[i]])) >= max(len(previous), len(rows[i])):
            groups[-1].append(i)
        else:
            groups.append([i])
    large: list[list[int]] = []
    others: list[int] = []
    for group in groups:
        saved = (len(group) - 1) * len(common_prefix([rows[i] for i in group]))
        if saved >= MIN_SAVED:
            large.append(group)
        else:
            others += group
    return [*large, others] if others else large
