"""Callbacks that every run has: a checkpoint on Ctrl-C or SIGTERM, a progress bar with tokens/s, and on a CPU, memory
that is given back.
"""

import ctypes
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_jit_checkpoint import CheckpointManager, JITCheckpointCallback
from trl import SFTTrainer

from dlm_trl.online.hooks import evaluate_without_a_trace
from dlm_trl.train.checkpoints import seal


class StopWithCheckpoint(JITCheckpointCallback):
    """transformers' just-in-time checkpoint, also for Ctrl-C, and agreed on by all processes.

    Signals reach the processes of a run at different steps. The stock callback lets each process save on its own, which
    hangs where saving or the next step needs all of them; here they agree after every step. Saving only between steps
    also keeps the random state whole, so a resumed run equals an uninterrupted one.

    signal: the signal that stopped the run, None if none did. saved: its checkpoint, None if training was over.
    """

    def __init__(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.trainer = trainer
        self.settings = settings
        self.jit_manager = CheckpointManager(trainer)
        self.signal: int | None = None
        self.saved: str | None = None
        self._handlers: dict[int, Any] = {}

    def set_trainer(self, trainer: Trainer) -> None:
        """Nothing to set up: unlike the stock callback, this one handles signals only while the trainer runs."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._request_stop)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The stock callback saves here, in the middle of a step."""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The stock callback saves here too; `on_step_end` of the step before has done it."""

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """`on_step_end` of the last step has done it."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        accelerator = self.trainer.accelerator
        requested = torch.tensor([self.signal or 0], device=accelerator.device)
        self.signal = int(accelerator.gather(requested).max()) or None
        if self.signal and state.global_step < state.max_steps:
            self.jit_manager.execute_jit_checkpoint()
            self.trainer.callback_handler.on_save(args, state, control)  # which it does not do by itself
            self.saved = f"{args.output_dir}/checkpoint-{state.global_step}"
            control.should_save = False
            control.should_evaluate = False
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Seals the checkpoint, once all processes have written their part."""
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir, f"checkpoint-{state.global_step}"), self.settings)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


class TokenRate(ProgressCallback):
    """The stock progress bar plus loss, accuracy and tokens per second since the last log line; a task's measurements
    are printed above it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since = (time.perf_counter(), 0.0)  # time of the last log line, and the tokens until then

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        super().on_step_begin(args, state, control, **kw)
        if state.global_step == 0:
            self._since = (time.perf_counter(), 0.0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kw: Any,
    ) -> None:
        if not (state.is_world_process_zero and logs):
            return
        if "loss" in logs:
            now, tokens = time.perf_counter(), float(logs["num_tokens"])
            rate = (tokens - self._since[1]) / (now - self._since[0])
            self._since = (now, tokens)
            right = f"{float(logs['online/accuracy']):.0%} right, " if "online/accuracy" in logs else ""
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}, {right}{rate:,.0f} tokens/s")
        elif "eval_perplexity" in logs:
            accuracies = {name.split("/")[1]: value for name, value in logs.items() if name.endswith("/accuracy")}
            shown = ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items())
            tqdm.write(f"step {state.global_step}: {shown}; perplexity {logs['eval_perplexity']:.1f}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        super().on_evaluate(args, state, control, **kw)
        self._since = (time.perf_counter(), self._since[1])  # the time of evaluation doesn't count


class TrimMemory(TrainerCallback):
    """Gives freed memory back to the system after each step of a run on a CPU.

    Batches of many different shapes fragment glibc's heap: without this, the multiple-choice task on SmolLM2-135M takes
    11 GB after 140 steps instead of 2 between steps and 9 within one. Does nothing with other C libraries.
    """

    def __init__(self) -> None:
        try:
            self._trim: Any = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
            self._trim = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if self._trim is not None:
            self._trim(0)


def install(trainer: SFTTrainer, settings: Mapping[str, Any]) -> StopWithCheckpoint:
    """Add them to a trainer; the callback returned tells after training whether the run was stopped.

    settings: what a run that is resumed is compared with.
    """
    stop = StopWithCheckpoint(trainer, settings)
    trainer.add_callback(stop)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(TokenRate())
    if trainer.args.use_cpu:
        trainer.add_callback(TrimMemory())
    evaluate_without_a_trace(trainer)
    return stop
