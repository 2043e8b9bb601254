"""Weights that are sharded over the processes of a run (ZeRO-3, FSDP), and how to generate with them.

    with whole_weights(trainer.model_wrapped):       # all processes enter it
        texts = generate(base, tokenizer, prompts, max_new_tokens=32)

Each forward pass gathers sharded weights layer by layer, and generation makes one for every token. `whole_weights`
gathers ZeRO-3's once. Inside, a process generates on its own; outside, all have to make the same passes (`is_sharded`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import psutil
import torch
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from dlm_trl.models.ranks import is_main
from dlm_trl.notes.terminal import say

SPARE = 2  # the free memory has to be this many times the weights: the KV cache needs some, too
_gathered = ContextVar("gathered", default=False)


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass gathers the weights, so that all processes have to make it together."""
    return bool(is_fsdp_managed_module(model) or (is_deepspeed_zero3_enabled() and not _gathered.get()))


@contextmanager
def whole_weights(wrapped: nn.Module) -> Iterator[None]:
    """Inside, each process has all weights of a ZeRO-3 model, if they fit into its free memory.

    wrapped: the trainer's `model_wrapped`, once training has begun. For any other model it does nothing. All processes
    have to enter it together; they needn't leave it together. Don't train inside, and don't change weights.
    """
    if not is_deepspeed_zero3_enabled() or _gathered.get() or not _fit(wrapped):
        yield
        return
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(wrapped.parameters()):
        remove_hooks(wrapped)  # they would shard each layer again after its forward pass
        token = _gathered.set(True)
        try:
            yield
        finally:
            _gathered.reset(token)
            add_hooks(wrapped)


def _fit(wrapped: nn.Module) -> bool:
    """Whether the whole weights fit, in every process."""
    needed = sum(parameter.ds_numel * parameter.element_size() for parameter in wrapped.parameters())
    fits = torch.tensor([int(SPARE * needed <= _free_memory(wrapped.device))], device=wrapped.device)
    torch.distributed.all_reduce(fits, torch.distributed.ReduceOp.MIN)
    if not fits.item():
        _say_slow(needed)
    return bool(fits.item())


def _free_memory(device: torch.device) -> int:
    """Bytes that this process can still take."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # freed, but kept by torch
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@cache
def _say_slow(needed: int) -> None:
    if is_main():
        say(
            f"The whole weights ({needed / 2**30:.1f} GiB) don't fit into the free memory of each process: ZeRO-3 "
            "gathers them for every token that is generated, which is slow.",
            err=True,
        )
