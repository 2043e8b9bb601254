"""What happens while the trainer runs: it stops with a checkpoint when asked to, shows tokens per second, and evaluates
without a trace.
"""

import signal
import time
from types import FrameType

import torch
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_jit_checkpoint import CheckpointManager, JITCheckpointCallback
from trl import SFTTrainer

from dlm_trl.online.hooks import evaluate_without_a_trace


class StopWithCheckpoint(JITCheckpointCallback):
    """transformers' just-in-time checkpoint, for Ctrl-C as well as SIGTERM, agreed on by all processes.

    Signals reach the processes of a run at different steps. The stock callback lets each one save by itself, which
    never ends where saving or the next step needs all of them; here they ask each other after every step. Saving only
    between steps also keeps the random state whole, so that the resumed run equals an uninterrupted one.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer
        self.jit_manager = CheckpointManager(trainer)
        self.signal: int | None = None
        self.saved: str | None = None
        self._handlers: dict[int, object] = {}

    def set_trainer(self, trainer: Trainer) -> None:
        """Nothing to set up: unlike the stock callback, signals are caught only while the trainer runs."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._ask)

    def on_pre_optimizer_step(self, *args, **kwargs) -> None:
        """The stock callback saves here, in the middle of a step."""

    def on_step_begin(self, *args, **kwargs) -> None:
        """The stock callback saves here too; the end of the step before has looked already."""

    def on_epoch_end(self, *args, **kwargs) -> None:
        """The end of the last step has looked already."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        accelerator = self.trainer.accelerator
        asked = torch.tensor([self.signal or 0], device=accelerator.device)
        number = int(accelerator.gather(asked).max())
        if number and state.global_step < state.max_steps:
            self.signal = number
            self.jit_manager.execute_jit_checkpoint()
            self.saved = f"{args.output_dir}/checkpoint-{state.global_step}"
            control.should_save = False
            control.should_evaluate = False
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


class TokenRate(ProgressCallback):
    """The stock progress bar, with the tokens per second since the last line of the log at its end; above it, a line
    for each measurement of a task.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since = (time.perf_counter(), 0.0)  # when the last line was written, and the tokens until then

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        if state.global_step == 0:
            self._since = (time.perf_counter(), 0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **kwargs
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            now, tokens = time.perf_counter(), float(logs["num_tokens"])
            rate = (tokens - self._since[1]) / (now - self._since[0])
            self._since = (now, tokens)
            right = f"{float(logs['online/accuracy']):.0%} right, " if "online/accuracy" in logs else ""
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}, {right}{rate:,.0f} tokens/s")
        elif state.is_world_process_zero and logs and "eval_perplexity" in logs:
            accuracies = {n.split("/")[1]: value for n, value in logs.items() if n.endswith("/accuracy")}
            shown = ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items())
            tqdm.write(f"step {state.global_step}: {shown}; perplexity {logs['eval_perplexity']:.1f}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        super().on_evaluate(args, state, control, **kwargs)
        self._since = (time.perf_counter(), self._since[1])  # evaluating is not training


def install(trainer: SFTTrainer) -> StopWithCheckpoint:
    """Put all of this into a trainer; the callback returned says afterwards whether and where the run was stopped."""
    stop = StopWithCheckpoint(trainer)
    trainer.add_callback(stop)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(TokenRate())
    evaluate_without_a_trace(trainer)
    return stop
