"""Find out before training whether the trainer takes the settings: `with trainer_errors(configuration): …`.

Many settings are only checked when the trainer uses them: an optimizer or a logger whose package is missing, the
arguments of a scheduler. `try_optimizer` uses those that would fail after the first measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import Trainer

from dlm_trl.models.batching import is_out_of_memory
from dlm_trl.models.ranks import is_lost_process
from dlm_trl.notes.errors import DlmError, UsageError
from dlm_trl.train.settings import Settings, sources_of


@contextmanager
def trainer_errors(configuration: Settings) -> Iterator[None]:
    """Raise a DlmError (UsageError) that names the settings that somebody set, for any exception about them."""
    try:
        yield
    except DlmError:
        raise
    except Exception as error:  # the trainer, the optimizer and the loggers raise anything
        if is_lost_process(error) or is_out_of_memory(error):
            raise
        message = " ".join(str(error).split())
        raise UsageError(
            f"The trainer can't work with these settings: {type(error).__name__}: {message.rstrip('.')}.",
            hint=f"You set: {sources_of(configuration.settings, message)}.",
        ) from error


def try_optimizer(trainer: Trainer) -> None:
    """Create the optimizer and the scheduler once, and drop them; `train` creates its own.

    DeepSpeed and FSDP create theirs from sharded weights, so with these it does nothing.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return
    trainer.create_optimizer_and_scheduler(num_training_steps=1)
    trainer.optimizer = trainer.lr_scheduler = None
