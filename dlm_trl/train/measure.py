"""Measurements before and after training: validation loss, answer recall by group of questions, perplexity, and the
open-book baseline (the untrained base with the notes in its prompt).
"""

import json
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dlm_trl.evaluation.advice import is_right
from dlm_trl.evaluation.mcsb import wilson
from dlm_trl.evaluation.notes_score import CHOICE, INVENTIONS, Answered, choice_groups, score_notes, score_open_book
from dlm_trl.evaluation.numbers import Measure, Sample
from dlm_trl.evaluation.open_book_share import OpenBookShare, open_book_share
from dlm_trl.evaluation.perplexity import general_perplexity
from dlm_trl.evaluation.progress import progress
from dlm_trl.evaluation.recall import RecallQuestion
from dlm_trl.evaluation.spec import UNTRAINED, NotesQuestions
from dlm_trl.models.frozen import frozen
from dlm_trl.models.sharding import whole_weights
from dlm_trl.notes.files import replace_file
from dlm_trl.notes.terminal import say

FILE = "before.json"  # in output_dir: a resumed run needs the numbers of the untrained model
TASK_MEASURES = ("accuracy", "ppa")  # of each condition
SAMPLES = 5  # questions per group in the report
WRONG = 2  # of these, at least, if the model answers as many wrong
OPEN_BOOK_SHARE = "share of open book"


@dataclass(frozen=True)
class Numbers:
    """One measurement. open_book: the base with the notes in its prompt, measured only before training."""

    validation_loss: float | None
    perplexity: float
    recall: Answered
    open_book: Answered | None = None


def measure(trainer: Trainer, questions: NotesQuestions) -> Numbers:
    """Measure the model as it is now. All processes take part; the run's random state doesn't change."""
    with torch.random.fork_rng():
        loss = trainer.evaluate()["eval_loss"] if trainer.eval_dataset is not None else None
        return replace(ask(trainer, questions), validation_loss=loss)


def ask(trainer: Trainer, questions: NotesQuestions) -> Numbers:
    """Like `measure`, without the validation loss."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    tokenizer = trainer.processing_class
    with torch.random.fork_rng(), whole_weights(trainer.model_wrapped):
        answered = score_notes(model, tokenizer, questions, shown(trainer))
        with progress("reading the general text", 1.0, shown(trainer)) as advance:
            perplexity = general_perplexity(model, tokenizer, advance)
    return Numbers(None, perplexity, answered)


def measure_open_book(trainer: Trainer, questions: NotesQuestions, prose: Sequence[str]) -> Answered | None:
    """The base with the notes in its prompt; None without prose or questions, or if the context is too short."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with whole_weights(trainer.model_wrapped), frozen(model) as base:
        return score_open_book(base, trainer.processing_class, questions, prose, shown(trainer))


class MeasureBefore(TrainerCallback):
    """Measures once the trainer is set up, before the first step: ZeRO-3 can't generate earlier."""

    def __init__(self, trainer: Trainer, questions: NotesQuestions, prose: Sequence[str] = ()) -> None:
        self.trainer = trainer
        self.questions = questions
        self.prose = prose
        self.numbers: Numbers | None = None
        self.seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        file = Path(args.output_dir) / FILE
        if state.global_step:
            self.numbers = _read(file)
            return
        started = time.perf_counter()
        open_book = measure_open_book(self.trainer, self.questions, self.prose)
        self.numbers = replace(measure(self.trainer, self.questions), open_book=open_book)
        if state.is_world_process_zero:
            replace_file(file, json.dumps(asdict(self.numbers)).encode())
        self.seconds = time.perf_counter() - started


def _read(file: Path) -> Numbers | None:
    """The numbers of the untrained model; None, with a line that says so, if they were lost."""
    try:
        return TypeAdapter(Numbers).validate_json(file.read_bytes())
    except (OSError, ValidationError):
        say(f"{file} is missing or damaged: the report will have no numbers from before training.", err=True)
        return None


def measures(before: Numbers | None, after: Numbers, questions: NotesQuestions) -> list[Measure]:
    """The rows of the before/after table.

    If a resumed run asks other questions than it started with, a group has no number before: it would be a share of
    something else.
    """
    asked = before.recall.answers if before else {}
    same = {group for group, said in after.recall.answers.items() if asked.get(group, {}).keys() == said.keys()}
    was = before.recall.shares if before else {}
    with_notes = before.open_book.shares if before and before.open_book else {}
    names = dict.fromkeys(name for shares in after.recall.shares.values() for name in shares)
    chosen = {group: len(every) for group, every in choice_groups(questions).items()}
    rows = []
    for name in names:
        for group, shares in after.recall.shares.items():
            if name in shares:
                compared = [
                    by_group.get(group, {}).get(name) if group in same else None for by_group in (was, with_notes)
                ]
                count = chosen[group] if name == CHOICE else len(after.recall.answers[group])
                low, high = wilson(shares[name], count) if name in (CHOICE, INVENTIONS) else (None, None)
                rows.append(
                    Measure(
                        f"{name}, {group}", "share", compared[0], shares[name], compared[1], low, high, group, count
                    )
                )
    loss, perplexity = (before.validation_loss, before.perplexity) if before else (None, None)
    return [
        *rows,
        *_open_book_share(before, after, questions, same),
        Measure("perplexity, general text", "per token", perplexity, after.perplexity),
        Measure("validation loss", "nats per token", loss, after.validation_loss),
    ]


def _open_book_share(
    before: Numbers | None, after: Numbers, questions: NotesQuestions, same: Container[str]
) -> list[Measure]:
    """The share of the open book's F1 that the model reaches on questions that nothing trained; [] if not measured."""
    groups = [group for group in UNTRAINED if group in questions.groups and group in same]
    if not groups or before is None or before.open_book is None:
        return []
    asked = [(group, question, answer) for group in groups for question, answer, _ in questions.groups[group]]

    def share(answers: Mapping[str, Mapping[str, str]]) -> OpenBookShare:
        assert before.open_book is not None
        opened = before.open_book.answers
        return open_book_share(
            [answers[group][question] for group, question, _ in asked],
            [opened[group][question] for group, question, _ in asked],
            [answer for *_, answer in asked],
        )

    was, now = share(before.recall.answers), share(after.recall.answers)
    note = f"{OPEN_BOOK_SHARE}: {now.note()} The questions are those that nothing trained: {', '.join(groups)}."
    return [Measure(OPEN_BOOK_SHARE, "ratio", was.share, now.share, None, now.low, now.high, None, now.questions, note)]


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


def samples(questions: NotesQuestions, before: Numbers | None, after: Numbers) -> list[Sample]:
    """A few answers of each group side by side, right and wrong ones; a dash for one that was not asked before."""
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
        for group, asked in questions.every().items()
        for question, answer, _ in _chosen(group, asked, after.recall.answers[group])
    ]


def _chosen(group: str, asked: Sequence[RecallQuestion], said: Mapping[str, str]) -> list[RecallQuestion]:
    """The first questions, and the first ones that are answered wrong, in their order."""
    wrong = [question for question in asked if not is_right(group, question[1], said[question[0]])][:WRONG]
    others = [question for question in asked if question not in wrong][: SAMPLES - len(wrong)]
    return [question for question in asked if question in wrong or question in others]


def shown(trainer: Trainer) -> bool:
    """Whether to show progress bars."""
    return trainer.is_world_process_zero() and not trainer.args.disable_tqdm
