"""Keys and values of what many prompts begin with, computed once: `PrefixCache.of(model, tokens)`.

    prefix = PrefixCache.of(model, common_prefix([few_shot, *prompts]))
    generate_batches(model, tokenizer, prompts, 32, prefix=prefix)

It holds as long as the weights do: for a frozen base, the whole run. All rows of a batch attend to it where it lies. A
copy for each of them would be read through for every token, which costs a small model about as much as all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import eager_mask

from dlm_trl.models.batching import evaluating

_ATTENTION = "dlm_trl_prefix"  # the name of `_attend` among transformers' attention functions
_OTHERWISE = ("sliding_window", "softcap", "s_aux", "sinks", "position_bias", "indices")  # asks for what it cannot do


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """tokens, and for each layer of the model their keys and values, (1, heads, tokens, head size) each."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, tokens: Sequence[int]) -> PrefixCache | None:
        """The cache after these tokens; None for a model that keeps something else, or whose attention is not plain."""
        if not model.is_backend_compatible():
            return None
        try:
            with evaluating(model), cls((), ()).attended(model):
                output = model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=True)
        except _AttendsOtherwise:
            return None
        cache = output.get("past_key_values")
        if type(cache) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        return cls(tuple(tokens), tuple((layer.keys, layer.values) for layer in cache.layers))

    def cache(self, rows: int, tokens: int) -> DynamicCache:
        """A cache for this many rows, with room for this many tokens behind the prefix; to be used in `attended`."""
        cache = DynamicCache()
        cache.layers = [_Behind(layer, rows, tokens) for layer in self.layers]
        return cache

    @contextmanager
    def attended(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside, whatever the model reads with such a cache attends to the prefix too."""
        own = model.config._attn_implementation
        AttentionInterface.register(_ATTENTION, partial(_attend, self.layers))
        AttentionMaskInterface.register(_ATTENTION, eager_mask)
        model.config._attn_implementation = _ATTENTION
        try:
            yield
        finally:
            model.config._attn_implementation = own


class _AttendsOtherwise(Exception):
    """Raised in the forward pass of a model whose attention is not the plain one."""


class _Behind(DynamicLayer):
    """The rows' own keys and values, behind the prefix, in memory that has room for those to come.

    A new token is written to its place; `DynamicLayer` copies all tokens before it.
    """

    def __init__(self, prefix: tuple[Tensor, Tensor], rows: int, tokens: int) -> None:
        super().__init__()
        self.lazy_initialization(*prefix)
        self.memory = [part.new_empty(rows, part.shape[1], tokens, part.shape[3]) for part in prefix]
        self.before, self.length = prefix[0].shape[2], 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[2]
        for memory, states in zip(self.memory, (key_states, value_states), strict=True):
            memory[:, :, start : self.length] = states
        self.keys, self.values = (memory[:, :, : self.length] for memory in self.memory)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.before + self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.memory = [memory.index_select(0, beam_idx.to(memory.device)) for memory in self.memory]


def _attend(
    prefix: Sequence[tuple[Tensor, Tensor]],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **asked: object,
) -> tuple[Tensor, None]:
    """What `query` (rows, heads, new tokens, size) finds in the prefix and in the row's own keys, under one softmax.

    The rows' products with the prefix are one product of matrices, each read once.
    """
    if any(asked.get(name) is not None for name in _OTHERWISE):
        raise _AttendsOtherwise
    keys, values = prefix[module.layer_idx] if prefix else (key[:1, :, :0], value[:1, :, :0])
    rows, heads, new, size = query.shape
    query = query.reshape(rows, key.shape[1], -1, size)  # heads that share their keys, side by side
    scores = torch.cat([torch.einsum("rhqs,hks->rhqk", query, keys[0]), query @ key.transpose(2, 3)], -1) * scaling
    scores = scores.view(rows, heads, new, -1) + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype).view(*query.shape[:3], -1)
    before, behind = weights.split([keys.shape[2], key.shape[2]], -1)
    found = torch.einsum("rhqk,hks->rhqs", before, values[0]) + behind @ value
    return found.reshape(rows, heads, new, -1).transpose(1, 2), None


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with, but at least one less than the shortest of them has."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return [column[0] for column in columns][: min(map(len, prompts)) - 1]
