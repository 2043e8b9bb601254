"""Measurements before and after training: validation loss, answer recall by group of questions, perplexity, and the
open-book baseline (the untrained base with the notes in its prompt).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from dlm_trl.evaluation.open_book import open_book_recall
from dlm_trl.evaluation.perplexity import general_perplexity
from dlm_trl.evaluation.progress import progress
from dlm_trl.evaluation.recall import Recall, RecallQuestion, answer_recall
from dlm_trl.evaluation.report import Measure, Sample
from dlm_trl.models.frozen import frozen
from dlm_trl.notes.files import replace_file
from dlm_trl.notes.terminal import say

FILE = "before.json"  # in output_dir: a resumed run needs the numbers of the untrained model
TASK_MEASURES = ("accuracy", "ppa")  # of each condition
SAMPLES = 5  # questions per group in the report


@dataclass(frozen=True)
class Answered:
    """By group of questions: the shares by name, and the answer to each question."""

    shares: dict[str, dict[str, float]]
    answers: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Numbers:
    """One measurement. open_book: the base with the notes in its prompt, measured only before training."""

    validation_loss: float | None
    perplexity: float
    recall: Answered
    open_book: Answered | None = None


def measure(trainer: SFTTrainer, questions: Mapping[str, Sequence[RecallQuestion]]) -> Numbers:
    """Measure the model as it is now. All processes take part; the run's random state doesn't change."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    tokenizer = trainer.processing_class
    with torch.random.fork_rng():
        loss = trainer.evaluate()["eval_loss"] if trainer.eval_dataset is not None else None
        with progress("answering the questions", _count(questions), _shown(trainer)) as advance:
            recalls = {group: answer_recall(model, tokenizer, asked, advance) for group, asked in questions.items()}
        with progress("reading the general text", 1.0, _shown(trainer)) as advance:
            perplexity = general_perplexity(model, tokenizer, advance)
    return Numbers(loss, perplexity, _answered(questions, recalls))


def measure_open_book(
    trainer: SFTTrainer, questions: Mapping[str, Sequence[RecallQuestion]], prose: Sequence[str]
) -> Answered | None:
    """The base with the notes in its prompt; None without prose or questions, or if the context is too short."""
    if not (questions and prose):
        return None
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with (
        frozen(model) as base,
        progress("answering with the notes in the prompt", _count(questions), _shown(trainer)) as advance,
    ):
        recalls = open_book_recall(base, trainer.processing_class, questions, prose, advance)
    return _answered(questions, recalls) if recalls else None


class MeasureBefore(TrainerCallback):
    """Measures once the trainer is set up, before the first step: ZeRO-3 can't generate earlier."""

    def __init__(
        self, trainer: SFTTrainer, questions: Mapping[str, Sequence[RecallQuestion]], prose: Sequence[str] = ()
    ) -> None:
        self.trainer = trainer
        self.questions = questions
        self.prose = prose
        self.numbers: Numbers | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        file = Path(args.output_dir) / FILE
        if state.global_step:
            self.numbers = _read(file)
            return
        open_book = measure_open_book(self.trainer, self.questions, self.prose)
        self.numbers = replace(measure(self.trainer, self.questions), open_book=open_book)
        if state.is_world_process_zero:
            replace_file(file, json.dumps(asdict(self.numbers)).encode())


def _read(file: Path) -> Numbers | None:
    """The numbers of the untrained model; None, with a line that says so, if they were lost."""
    try:
        return TypeAdapter(Numbers).validate_json(file.read_bytes())
    except (OSError, ValidationError):
        say(f"{file} is missing or damaged: the report will have no numbers from before training.", err=True)
        return None


def measures(before: Numbers | None, after: Numbers) -> list[Measure]:
    """The rows of the before/after table.

    If a resumed run asks other questions than it started with, a group has no number before: it would be a share of
    something else.
    """
    asked = before.recall.answers if before else {}
    same = {group for group, said in after.recall.answers.items() if asked.get(group, {}).keys() == said.keys()}
    open_book = before.open_book.shares if before and before.open_book else {}
    names = list(dict.fromkeys(name for shares in after.recall.shares.values() for name in shares))
    loss_before, perplexity_before = (before.validation_loss, before.perplexity) if before else (None, None)
    rows = [Measure("validation loss", "nats per token", loss_before, after.validation_loss)]
    for name in names:
        for group, shares in after.recall.shares.items():
            was = before.recall.shares[group][name] if before and group in same else None
            with_notes = open_book[group][name] if group in same and open_book else None
            rows.append(Measure(f"{name}, {group}", "share", was, shares[name], with_notes))
    rows.append(Measure("perplexity, general text", "per token", perplexity_before, after.perplexity))
    return rows


def task_measures(history: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """The rows of the before/after table for a task: what `MeasureDuring` logged first and last."""
    lines = [line for line in history if any(name.startswith("eval_mcsb/") for name in line)]
    if not lines:
        return []
    first, last = lines[0], lines[-1]
    return [
        # A resumed run may measure what the first part of it did not.
        Measure(name.removeprefix("eval_"), "share", first.get(name) if first["step"] == 0 else None, last[name])
        for name in last
        if name.startswith("eval_mcsb/") and name.endswith(TASK_MEASURES)
    ]


def samples(questions: Mapping[str, Sequence[RecallQuestion]], before: Numbers | None, after: Numbers) -> list[Sample]:
    """A few answers of each group side by side; a dash for a question that was not asked before training."""
    was = before.recall.answers if before else {}
    with_notes = before.open_book.answers if before and before.open_book else None
    return [
        Sample(
            group,
            question,
            answer,
            was.get(group, {}).get(question, "–"),
            after.recall.answers[group][question],
            None if with_notes is None else with_notes.get(group, {}).get(question, "–"),
        )
        for group, asked in questions.items()
        for question, answer, _ in asked[:SAMPLES]
    ]


def _answered(questions: Mapping[str, Sequence[RecallQuestion]], recalls: Mapping[str, Recall]) -> Answered:
    return Answered(
        shares={group: recall.shares() for group, recall in recalls.items()},
        answers={
            group: dict(zip((question for question, *_ in questions[group]), recall.answers, strict=True))
            for group, recall in recalls.items()
        },
    )


def _count(questions: Mapping[str, Sequence[RecallQuestion]]) -> int:
    return sum(map(len, questions.values()))


def _shown(trainer: SFTTrainer) -> bool:
    return trainer.is_world_process_zero() and not trainer.args.disable_tqdm
