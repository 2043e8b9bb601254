"""On a CPU, TRL's loss projects every position to the vocabulary and then drops those without a label. Not with this.

    with scored_where_labelled():
        trainer.train()

On GPUs TRL leaves the positions without a label out by itself. It does not elsewhere, because there are devices that
compile anew for every shape; a CPU does not. Half of a short pair and more is prompt, and for a small model the
projection is a large part of the work. The loss is the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from trl.trainer import utils


@contextmanager
def scored_where_labelled() -> Iterator[None]:
    """Inside, SFTTrainer computes log-probabilities for labelled positions only, on a CPU too.

    `_use_triton` is what TRL asks whether to leave positions out; its kernels ask a function of their own.
    """
    on_device = utils._use_triton

    def on_device_or_cpu(device: torch.device) -> bool:
        return device.type == "cpu" or on_device(device)

    utils._use_triton = on_device_or_cpu
    try:
        yield
    finally:
        utils._use_triton = on_device
