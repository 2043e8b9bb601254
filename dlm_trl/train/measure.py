"""The numbers before and after: validation loss, recall of seen, held-out and reworded questions, perplexity."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from dlm_trl.evaluation.perplexity import general_text, perplexity
from dlm_trl.evaluation.recall import Question, answer_recall
from dlm_trl.evaluation.report import Measure, Sample

FILE = "before.json"  # in output_dir, so that a resumed run reports what the untrained model could do
SAMPLES = 5  # questions of each group that the report shows side by side
WINDOW = 512


@dataclass(frozen=True)
class Numbers:
    """One measurement. Shares by group of questions; answers in the order of the group's questions."""

    validation_loss: float | None
    exact: dict[str, float]
    fuzzy: dict[str, float]
    perplexity: float
    answers: dict[str, list[str]]


def measure(trainer: SFTTrainer, questions: dict[str, list[Question]]) -> Numbers:
    """Measure the model as it stands; every process takes part, and the run's random state stays as it is."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    tokenizer = trainer.processing_class
    with torch.random.fork_rng():
        loss = trainer.evaluate()["eval_loss"] if trainer.eval_dataset is not None else None
        recalls = {group: answer_recall(model, tokenizer, asked) for group, asked in questions.items()}
        window = min(WINDOW, model.config.get_text_config().max_position_embeddings)
        general = perplexity(model, tokenizer, general_text(), window)
    return Numbers(
        validation_loss=loss,
        exact={group: recall.exact for group, recall in recalls.items()},
        fuzzy={group: recall.fuzzy for group, recall in recalls.items()},
        perplexity=general,
        answers={group: list(recall.answers) for group, recall in recalls.items()},
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
    """The rows of the before/after table."""
    rows = [Measure("validation loss", "nats per token", before and before.validation_loss, after.validation_loss)]
    for name in ("exact", "fuzzy"):
        for group, share in getattr(after, name).items():
            rows.append(Measure(f"{name} recall, {group}", "share", before and getattr(before, name)[group], share))
    rows.append(Measure("perplexity, general text", "per token", before and before.perplexity, after.perplexity))
    return rows


def samples(questions: dict[str, list[Question]], before: Numbers | None, after: Numbers) -> list[Sample]:
    """Some answers side by side, of each group of questions."""
    return [
        Sample(group, question, answer, before.answers[group][k] if before else "–", after.answers[group][k])
        for group, asked in questions.items()
        for k, (question, answer, _) in enumerate(asked[:SAMPLES])
    ]
