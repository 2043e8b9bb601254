"""Skip unlabelled positions in TRL's loss on a CPU too.

    with scored_where_labelled():
        trainer.train()

On GPUs TRL projects only labelled positions to the vocabulary. It doesn't elsewhere, because some devices compile anew
for every shape; a CPU doesn't. More than half of a short pair is prompt, and in a small model the projection is a large
part of the work. The loss is the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from trl.trainer import utils


@contextmanager
def scored_where_labelled() -> Iterator[None]:
    """Inside, SFTTrainer computes log-probabilities for labelled positions only, on a CPU too.

    `_use_triton` is what TRL asks whether to skip positions; its kernels ask another function.
    """
    use_triton = utils._use_triton

    def use_triton_or_cpu(device: torch.device) -> bool:
        return device.type == "cpu" or bool(use_triton(device))

    utils._use_triton = use_triton_or_cpu
    try:
        yield
    finally:
        utils._use_triton = use_triton
