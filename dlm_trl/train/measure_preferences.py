"""Measurements before and after training on preferences: how each row's answers are scored, and recall of the notes.

measuring = MeasurePreferences(trainer, run)
trainer.add_callback(measuring)              # measures right before the first step
trainer.train()
result = measuring.result()                  # measures again
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dlm_trl.evaluation.numbers import Measure, Sample
from dlm_trl.evaluation.preferences import (
    PreferenceScores,
    PreferenceTokens,
    margins,
    preference_measures,
    score_preferences,
)
from dlm_trl.evaluation.progress import progress
from dlm_trl.evaluation.recall import answers_after
from dlm_trl.models.frozen import frozen
from dlm_trl.models.sharding import whole_weights
from dlm_trl.models.tokenize import places
from dlm_trl.notes.files import replace_file
from dlm_trl.notes.terminal import say
from dlm_trl.train.measure import FILE, SAMPLES, Numbers, ask, measures, samples, shown
from dlm_trl.train.run import PreferenceRun

NEW_TOKENS = 64  # of a sample answer to a preference row's prompt

Scores = dict[str, PreferenceScores]  # by group of rows


@dataclass(frozen=True)
class PreferenceNumbers:
    """One measurement. answers: to the first prompts of each group. reference: only before training."""

    notes: Numbers
    scores: Scores
    answers: dict[str, list[str]]
    reference: Scores | None = None


@dataclass(frozen=True)
class PreferenceResult:
    """What the report says. wrong: file and line of each row whose reward is still higher for the rejected answer."""

    measures: list[Measure]
    samples: list[Sample]
    wrong: list[str]
    after: Numbers


class MeasurePreferences(TrainerCallback):
    """Measures before the first step, and again when asked; all processes take part."""

    def __init__(self, trainer: Trainer, run: PreferenceRun) -> None:
        self.trainer = trainer
        self.run = run
        self.groups = run.rows.groups()
        self.tokens = {
            group: PreferenceTokens.of(run.tokenizer, rows[:], places(rows[:])) for group, rows in self.groups.items()
        }
        self.before: PreferenceNumbers | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        file = Path(args.output_dir) / FILE
        if state.global_step:
            self.before = _read(file)
            return
        numbers = self._numbers()
        reference = numbers.scores
        if self.run.notes.reference == "base":
            with whole_weights(self.trainer.model_wrapped), frozen(self._model()) as base:
                reference = self._scores(base)
        self.before = PreferenceNumbers(numbers.notes, numbers.scores, numbers.answers, reference)
        if state.is_world_process_zero:
            replace_file(file, json.dumps(asdict(self.before)).encode())

    def result(self) -> PreferenceResult:
        """Measure again, and compare."""
        before, after, beta = self.before, self._numbers(), self.run.training.beta
        table, wrong, answers = [], [], []
        for group, rows in self.groups.items():
            if before and before.reference:
                reference = before.reference[group]
                table += preference_measures(group, reference, before.scores[group], after.scores[group], beta)
                found = zip(places(rows[:]), margins(after.scores[group], reference, beta), strict=True)
                wrong += [place for place, margin in found if margin <= 0]
            for i, said in enumerate(after.answers[group]):
                prompt, chosen = (rows[i][column][-1]["content"] for column in ("prompt", "chosen"))
                was = before.answers[group][i] if before else "–"
                answers.append(Sample(f"preferences, {group}", prompt, chosen, was, said))
        was_notes = before.notes if before else None
        recall = [
            measure
            for measure in measures(was_notes, after.notes, self.run.questions)
            if measure.name != "validation loss"
        ]
        more = samples(self.run.questions, was_notes, after.notes)
        return PreferenceResult([*table, *recall], [*answers, *more], wrong, after.notes)

    def _numbers(self) -> PreferenceNumbers:
        model = self._model()
        with torch.random.fork_rng(), whole_weights(self.trainer.model_wrapped):
            scores = self._scores(model)
            answers = {
                group: answers_after(model, self.run.tokenizer, tokens.prompts[:SAMPLES], NEW_TOKENS)
                for group, tokens in self.tokens.items()
            }
            return PreferenceNumbers(ask(self.trainer, self.run.questions), scores, answers)

    def _scores(self, model: Any) -> Scores:
        total = 2.0 * sum(len(tokens.prompts) for tokens in self.tokens.values())
        with progress("scoring the preferences", total, shown(self.trainer)) as advance:
            return {
                group: score_preferences(model, self.run.tokenizer, tokens, advance)
                for group, tokens in self.tokens.items()
            }

    def _model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)


def _read(file: Path) -> PreferenceNumbers | None:
    """The numbers from before the first step; None, with a line that says so, if they were lost."""
    try:
        return TypeAdapter(PreferenceNumbers).validate_json(file.read_bytes())
    except (OSError, ValidationError):
        say(f"{file} is missing or damaged: the report will have no numbers from before training.", err=True)
        return None
