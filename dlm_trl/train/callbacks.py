"""Callbacks that every run has: a checkpoint on Ctrl-C or SIGTERM, checkpoints that are whole, a progress bar with
tokens/s, and on a CPU, memory that is given back.
"""

import ctypes
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dlm_trl.models.load import TENSORS
from dlm_trl.notes.errors import DlmError
from dlm_trl.online.hooks import StepHook, add_hook, evaluate_without_a_trace
from dlm_trl.train.checkpoints import disk_errors, rotate, seal
from dlm_trl.train.save import check_finite
from dlm_trl.train.stop import StopSignals, StopWithCheckpoint


class SealCheckpoints(TrainerCallback, StepHook):
    """Writes each checkpoint into an empty folder, seals it, and only then deletes older ones.

    The trainer itself deletes the old one when the new one has no seal yet: a kill in between would leave no whole one.
    """

    def __init__(self, trainer: Trainer, settings: Mapping[str, Any]) -> None:
        self.trainer = trainer
        self.settings = settings
        self.keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None
        self._step: int | None = None  # of the last checkpoint

    @contextmanager
    def around_save(self) -> Iterator[None]:
        folder = self._folder()
        if self.trainer.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier run, or damaged
        self.trainer.accelerator.wait_for_everyone()
        with self._whole_or_gone():
            yield

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self._step = state.global_step or None

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if state.global_step == self._step:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()  # until all processes have written their part
        self._step = state.global_step
        if state.is_world_process_zero:
            with self._whole_or_gone():
                if (self._folder() / TENSORS).is_file():  # weights that diverged must not replace whole ones
                    check_finite(self._folder(), state.log_history, "checkpoint")
                seal(self._folder(), self.settings)
            rotate(self._folder(), self.keep, state.best_model_checkpoint)

    @contextmanager
    def _whole_or_gone(self) -> Iterator[None]:
        try:
            with disk_errors(self._folder(), "The checkpoint"):
                yield
        except DlmError:  # a part of a checkpoint is of no use, and the others need the space
            shutil.rmtree(self._folder(), ignore_errors=True)
            raise

    def _folder(self) -> Path:
        return Path(self.trainer.args.output_dir, f"checkpoint-{self.trainer.state.global_step}")


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


def install(trainer: Trainer, settings: Mapping[str, Any], signals: StopSignals) -> StopWithCheckpoint:
    """Add them to a trainer; the callback returned tells after training whether the run was stopped.

    settings: what a run that is resumed is compared with.
    """
    stop, sealing = StopWithCheckpoint(trainer, signals), SealCheckpoints(trainer, settings)
    trainer.add_callback(stop)
    trainer.add_callback(sealing)
    add_hook(trainer, sealing)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(TokenRate())
    if trainer.args.use_cpu:
        trainer.add_callback(TrimMemory())
    evaluate_without_a_trace(trainer)
    return stop
