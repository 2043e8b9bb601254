"""What Ctrl-C and SIGTERM do to a run: `with StopSignals() as signals: …`.

While there is something to lose, from the first step until the adapter is saved, a signal is only noted: the run ends
after the step, with a checkpoint, or after the last step, with its adapter. Before and after, it ends at once. Either
way the exit code is 128 plus the signal, and one line says what is left.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopSignals:
    """Handles SIGTERM and SIGINT inside its `with` block.

    number: the signal that came, None if none did.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.held = False
        self.left = "nothing was trained yet"
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From now on, only note signals."""
        self.held = True

    def release(self, left: str) -> None:
        """From now on, a signal ends the run at once, as does one that came before. left: what there is then."""
        self.held, self.left = False, left
        if self.number:
            self.exit()

    def exit(self) -> None:
        """End the run with one line, shown by the main process."""
        assert self.number is not None
        if os.environ.get("RANK", "0") == "0":
            # Not print: the signal may have interrupted one, and a buffered stream can't be entered twice.
            os.write(2, f"Stopped: {self.left}.\n".encode())
        sys.exit(128 + self.number)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if not self.held:
            self.exit()


class StopWithCheckpoint(TrainerCallback):
    """Ends training with a checkpoint after a signal, agreed on by all processes.

    Signals reach the processes of a run at different steps, and saving needs all of them, so they agree after every
    step. Saving only between steps also keeps the random state whole, so a resumed run equals an uninterrupted one.

    saved: the checkpoint, None if training was over.
    """

    def __init__(self, trainer: Trainer, signals: StopSignals) -> None:
        self.trainer = trainer
        self.signals = signals
        self.saved: str | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self.signals.hold()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        accelerator = self.trainer.accelerator
        arrived = torch.tensor([self.signals.number or 0], device=accelerator.device)
        self.signals.number = int(accelerator.gather(arrived).max()) or None
        if self.signals.number and state.global_step < state.max_steps:
            self.saved = f"{args.output_dir}/checkpoint-{state.global_step}"
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if self.saved:  # an evaluation at the end of each epoch
            control.should_evaluate = False
