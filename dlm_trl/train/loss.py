"""Less work for the same loss.

    add_hook(trainer, UncastInputs(trainer))
    with scored_where_labelled():
        trainer.train()

On GPUs TRL projects only labelled positions to the vocabulary. It doesn't elsewhere, because some devices compile anew
for every shape; a CPU doesn't. More than half of a short pair is prompt, and in a small model the projection is a large
part of the work. The loss is the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.helpers import disable_input_dtype_casting
from transformers import Trainer
from trl.trainer import utils

from dlm_trl.online.hooks import StepHook


@contextmanager
def scored_where_labelled() -> Iterator[None]:
    """Inside, TRL's trainers compute log-probabilities for labelled positions only, on a CPU too.

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


class UncastInputs(StepHook):
    """PEFT casts every layer's input to the adapter's float32, and autocast casts it back: leave both out.

    Only in the forward passes of training: elsewhere there is no autocast, and the cast is needed.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._model = trainer.accelerator.unwrap_model(trainer.model)
        self._autocast = trainer.accelerator.native_amp

    @contextmanager
    def around_loss(self) -> Iterator[None]:
        """Switches the casts off."""
        with disable_input_dtype_casting(self._model, self._autocast):
            yield
