"""How this package hooks into a stock trainer of TRL: the only module that replaces methods of a trainer.

    class Penalty(StepHook):
        def after_loss(self, loss, num_items_in_batch):
            return loss + 0.1

    add_hook(trainer, Penalty())

Callbacks can't change batches, losses or log lines, nor surround the writing of a checkpoint, so five methods of the
trainer instance are wrapped once: `get_batch_samples`, `compute_loss`, `log`, `evaluate` and `_save_checkpoint`. Every
hook runs in the same phases whatever the order in which hooks were added: all of them prepare the inputs, the forward
pass runs inside the contexts of all of them, then each one adds to the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from dlm_trl.notes.errors import UsageError

Batch = dict[str, Any]
Batches = tuple[list[Batch], Any]  # of a step, and how many of its tokens have a loss
Fetch = Callable[[Iterator[Any], int, Any], Batches]  # the trainer's own get_batch_samples
_ATTRIBUTE = "_dlm_trl_hooks"


class StepHook:
    """What a trainer offers to change; override what you need. Evaluation never calls any of it."""

    def batches(self, fetch: Fetch, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Batches | None:
        """The batches of a step and how many of their tokens have a loss; None leaves them to the trainer.

        fetch: the trainer's own method, with the same arguments. Only one hook of a trainer may override this.
        """
        return None

    def before_loss(self, inputs: Batch) -> Batch:
        """The inputs to use; runs before any hook's `around_loss`."""
        return inputs

    def around_loss(self) -> AbstractContextManager[Any]:
        """A context around the forward pass and the trainer's loss, nothing else."""
        return nullcontext()

    def after_loss(self, loss: Tensor, num_items_in_batch: Any) -> Tensor:
        """The loss to train on."""
        return loss

    def log_values(self) -> dict[str, float]:
        """Numbers for the log line that has the loss, since the last such line."""
        return {}

    def around_save(self) -> AbstractContextManager[Any]:
        """A context around the writing of a checkpoint."""
        return nullcontext()


def add_hook(trainer: Trainer, hook: StepHook) -> None:
    """Add a hook. Raises UsageError for a second hook that makes the batches."""
    hooks = _hooks(trainer).hooks
    if sum(type(one).batches is not StepHook.batches for one in (*hooks, hook)) > 1:
        raise UsageError("Two callbacks can't both make the batches of a trainer.", "Attach one of them.")
    hooks.append(hook)


def evaluate_without_a_trace(trainer: Trainer) -> None:
    """Keep `trainer.evaluate` from using up random numbers: a run resumed after it would not have drawn them."""
    _hooks(trainer)


class _Hooks:
    """The wrapped methods of one trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.hooks: list[StepHook] = []
        self._batches: Fetch = trainer.get_batch_samples
        self._loss = trainer.compute_loss
        self._log, self._evaluate = trainer.log, trainer.evaluate
        trainer.get_batch_samples, trainer.compute_loss = self.get_batch_samples, self.compute_loss
        trainer.log, trainer.evaluate = self.log, self.evaluate
        self._save, trainer._save_checkpoint = trainer._save_checkpoint, self.save_checkpoint

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Batches:
        # A run resumed at its last step: the trainer compares the two only after a step, which would be one too many.
        if self.trainer.state.global_step >= self.trainer.state.max_steps:
            return [], None
        for hook in self.hooks:
            if (made := hook.batches(self._batches, epoch_iterator, num_batches, device)) is not None:
                return made
        return self._batches(epoch_iterator, num_batches, device)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self.trainer.model.training:
            return self._loss(model, inputs, return_outputs, num_items_in_batch)
        for hook in self.hooks:
            inputs = hook.before_loss(inputs)
        with ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.around_loss())
            found = self._loss(model, inputs, return_outputs, num_items_in_batch)
        loss, *outputs = found if return_outputs else (found,)
        for hook in self.hooks:
            loss = hook.after_loss(loss, num_items_in_batch)
        return (loss, *outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            for hook in self.hooks:
                logs |= hook.log_values()
        self._log(logs, *args, **kwargs)

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.around_save())
            self._save(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with torch.random.fork_rng():
            return dict(self._evaluate(*args, **kwargs))


def _hooks(trainer: Trainer) -> _Hooks:
    if _ATTRIBUTE not in vars(trainer):
        setattr(trainer, _ATTRIBUTE, _Hooks(trainer))
    hooks: _Hooks = vars(trainer)[_ATTRIBUTE]
    return hooks
