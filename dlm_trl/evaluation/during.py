"""Numbers while a run goes on: `trainer.add_callback(MeasureDuring(trainer, partial(question_sets, tokenizer=…)))`.

They stand in the trainer's log (and wherever it reports to) as `eval_mcsb/5:upper/accuracy`, `eval_perplexity` and so
on: before the first step, after every `eval_steps`, and after the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dlm_trl.evaluation.suite import QuestionSets, measure
from dlm_trl.models.batching import evaluating
from dlm_trl.models.sharding import whole_weights


class MeasureDuring(TrainerCallback):
    """Measures the model in training on the same questions again and again, and leaves no trace in the run.

    make_sets gets the model when training begins, for it is then that a model in parts can describe the words. Every
    process measures all of it, since parts of a model can only compute together. A run that is resumed goes on with the
    next measurement.
    """

    def __init__(self, trainer: Trainer, make_sets: Callable[[PreTrainedModel], QuestionSets]) -> None:
        self.trainer = trainer
        self.make_sets = make_sets

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = self._model()
        with torch.random.fork_rng(), whole_weights(self.trainer.model_wrapped), evaluating(model):
            self.sets = self.make_sets(model)
        if state.global_step == 0:
            self._measure(control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if state.global_step % state.eval_steps == 0 or state.global_step == state.max_steps:
            self._measure(control)

    def _measure(self, control: TrainerControl) -> None:
        model = self._model()
        due = control.should_log
        # In eval mode, SFTTrainer keeps what it has gathered for the step's own line; and any line clears should_log.
        with torch.random.fork_rng(), evaluating(model):
            with whole_weights(self.trainer.model_wrapped):
                found = measure(model, self.trainer.processing_class, self.sets, with_cloze=False)
            self.trainer.log({f"eval_{name}": value for name, value in found.numbers().items()})
        control.should_log = due

    def _model(self) -> PreTrainedModel:
        return self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
