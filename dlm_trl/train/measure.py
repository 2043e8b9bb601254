"""The numbers before and after: validation loss, recall of seen, held-out and reworded questions, perplexity."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from dlm_trl.evaluation.perplexity import general_perplexity
from dlm_trl.evaluation.recall import Question, answer_recall
from dlm_trl.evaluation.report import Measure, Sample

FILE = "before.json"  # in output_dir, so that a resumed run reports what the untrained model could do
SAMPLES = 5  # questions of each group that the report shows side by side


@dataclass(frozen=True)
class Numbers:
    """One measurement. Shares by group of questions; answers by group and question."""

    validation_loss: float | None
    exact: dict[str, float]
    fuzzy: dict[str, float]
    perplexity: float
    answers: dict[str, dict[str, str]]


def measure(trainer: SFTTrainer, questions: dict[str, list[Question]]) -> Numbers:
    """Measure the model as it stands; every process takes part, and the run's random state stays as it is."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    tokenizer = trainer.processing_class
    with torch.random.fork_rng():
        loss = trainer.evaluate()["eval_loss"] if trainer.eval_dataset is not None else None
        recalls = {group: answer_recall(model, tokenizer, asked) for group, asked in questions.items()}
        general = general_perplexity(model, tokenizer)
    return Numbers(
        validation_loss=loss,
        exact={group: recall.exact for group, recall in recalls.items()},
        fuzzy={group: recall.fuzzy for group, recall in recalls.items()},
        perplexity=general,
        answers={
            group: dict(zip((question for question, *_ in questions[group]), recall.answers, strict=True))
            for group, recall in recalls.items()
        },
    )


class MeasureBefore(TrainerCallback):
    """Measures when the trainer is ready and nothing is trained yet: only then has ZeRO-3 a model that can answer."""

    def __init__(self, trainer: SFTTrainer, questions: dict[str, list[Question]]) -> None:
        self.trainer = trainer
        self.questions = questions
        self.numbers: Numbers | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        file = Path(args.output_dir) / FILE
        if state.global_step:
            self.numbers = Numbers(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
            return
        self.numbers = measure(self.trainer, self.questions)
        if state.is_world_process_zero:
            file.write_text(json.dumps(asdict(self.numbers)), encoding="utf-8")


def measures(before: Numbers | None, after: Numbers) -> list[Measure]:
    """The rows of the before/after table.

    Where a resumed run asks other questions than it began with, a group has no number before: it would be a share of
    something else.
    """
    same = {g for g, said in after.answers.items() if before and before.answers.get(g, {}).keys() == said.keys()}
    rows = [Measure("validation loss", "nats per token", before and before.validation_loss, after.validation_loss)]
    for name in ("exact", "fuzzy"):
        for group, share in getattr(after, name).items():
            was = getattr(before, name)[group] if group in same else None
            rows.append(Measure(f"{name} recall, {group}", "share", was, share))
    rows.append(Measure("perplexity, general text", "per token", before and before.perplexity, after.perplexity))
    return rows


def samples(questions: dict[str, list[Question]], before: Numbers | None, after: Numbers) -> list[Sample]:
    """Some answers side by side, of each group of questions; a dash for a question that was not asked before."""
    was = before.answers if before else {}
    return [
        Sample(group, question, answer, was.get(group, {}).get(question, "–"), after.answers[group][question])
        for group, asked in questions.items()
        for question, answer, _ in asked[:SAMPLES]
    ]
