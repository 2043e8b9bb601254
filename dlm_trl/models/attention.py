"""Torch's fused attention for a model that was loaded with eager attention: `with fused_attention(model): …`.

Eager attention is faster for short rows on a CPU, and several times slower where each row reads a long cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def fused_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, an eager model uses `sdpa`, if it has it; afterwards it's eager again. Other models stay as they are."""
    if model.config._attn_implementation != "eager" or not model._supports_sdpa:
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation("eager")
