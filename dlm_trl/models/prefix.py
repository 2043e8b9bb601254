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
            output = model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=True)
        cache = output.get("past_key_values")
        if type(cache) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        return cls(tuple(tokens), tuple((layer.keys, layer.values) for layer in cache.layers))

    def repeat(self, rows: int) -> DynamicCache:
        """A cache for this many rows, to be written to; the first write copies what they share."""
        return DynamicCache([tuple(part.expand(rows, -1, -1, -1) for part in layer) for layer in self.layers])


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with, but at least one less than the shortest of them has."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return [column[0] for column in columns][: min(map(len, prompts)) - 1]
