"""A task in the run: checked before any weights are loaded, then attached to the trainer.

problems = check_task(configuration, tokenizer, rows, spec)
callback = attach_task(trainer, run)
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer
from trl.trainer.utils import maybe_gather_lm_head_ctx

from dlm_trl.evaluation.during import MeasureDuring
from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.evaluation.suite import condition_tasks, read_glosses
from dlm_trl.notes import DlmError, Document
from dlm_trl.online.callback import OnlineSynthesisCallback
from dlm_trl.online.curriculum import Curriculum
from dlm_trl.online.distillation import Distillation
from dlm_trl.online.encode import encode
from dlm_trl.tasks.load import ABOUT_NOTES, load_tasks, read_stages
from dlm_trl.tasks.mcsb import HELD_OUT
from dlm_trl.tasks.protocol import smoke_test
from dlm_trl.teachers.load import inspect_teacher, is_self, load_teacher
from dlm_trl.train.arguments import TaskArguments
from dlm_trl.train.config import Configuration
from dlm_trl.train.data import Rows
from dlm_trl.train.run import Run
from dlm_trl.train.spec import trained_task


def check_task(
    configuration: Configuration, tokenizer: PreTrainedTokenizerBase, rows: Rows, spec: EvaluationSpec
) -> list[str]:
    """What is wrong with the task and its measurements. Runs the task once, with made-up text from the base."""
    task, document = configuration.task, configuration.document
    problems = list(_contradictions(task, bool(rows.parts()), configuration.training.max_steps))
    try:
        if task.task:
            for stage in open_curriculum(task, tokenizer, rows.passages).stages:
                for example in smoke_test(stage, task.task, configuration.training.seed)[1]:
                    encode(example, tokenizer)
                    if configuration.notes.objective != "nll" and example.context is None:
                        problems.append(
                            f"objective {configuration.notes.objective} needs a context for the base to read, and the "
                            f"task {task.task} gives none: set Example.context, or leave objective out."
                        )
            if is_self(task.task_teacher) and document is None:
                problems.append("task_teacher is self, the adapter of a document, but no document is set.")
            elif task.task_teacher != "base":
                inspect_teacher(task.task_teacher, document)
        name, stages = trained_task(task)
        if name == "mcsb" and len({stage.get("held_out", HELD_OUT) for stage in stages}) > 1:
            problems.append("The stages differ in held_out: one would train on words that another holds out.")
        if name == "mcsb" and any(stage.get("split") == "held_out" for stage in stages):
            problems.append("split: held_out are the words to measure with. Leave split out to train on the others.")
        if spec.conditions:
            condition_tasks(tokenizer, spec.conditions, held_out=spec.held_out)
        if spec.glosses:
            read_glosses(Path(spec.glosses))
            if not spec.conditions:
                problems.append("glosses are measured with the first condition: set conditions.")
    except (DlmError, ValueError) as error:
        problems.append(str(error))
    return problems


def open_curriculum(
    task: TaskArguments,
    tokenizer: PreTrainedTokenizerBase,
    passages: Document | None,
    embeddings: torch.Tensor | None = None,
) -> Curriculum:
    """The task, one instance per stage. passages: the document with the prose it may ask about.

    Raises DlmError for unknown tasks and options.
    """
    assert task.task is not None
    documents = [passages] if task.task in ABOUT_NOTES and passages else []
    stages = load_tasks(
        task.task, read_stages(task.stages), tokenizer=tokenizer, documents=documents, embeddings=embeddings
    )
    return Curriculum(stages, task.stage_accuracy, task.stage_window)


def attach_task(
    trainer: SFTTrainer, run: Run, distillation: Distillation | None = None
) -> OnlineSynthesisCallback | None:
    """Write the task's rows inside the trainer's steps, and measure the task before, during and after training."""
    task, callback = run.task, None
    if task.task:
        weight = trainer.accelerator.unwrap_model(trainer.model).get_input_embeddings().weight
        with maybe_gather_lm_head_ctx(weight, None):
            curriculum = open_curriculum(task, run.tokenizer, run.rows.passages, weight.detach().float().cpu())
        callback = OnlineSynthesisCallback(
            curriculum,
            seed=run.training.seed,
            synthetic_fraction=task.synthetic_fraction,
            teacher="base" if task.task_teacher == "base" else load_teacher(task.task_teacher, run.document),
            distillation=distillation,
        ).attach(trainer)
    if run.eval_spec.conditions:
        trainer.add_callback(MeasureDuring(trainer, partial(run.eval_spec.question_sets, tokenizer=run.tokenizer)))
    return callback


def _contradictions(task: TaskArguments, has_rows: bool, max_steps: int) -> Iterator[str]:
    """Settings that exclude each other. has_rows: whether there are rows of the document to train on."""
    only_task = task.task_rows or (task.task and task.synthetic_fraction == 1)
    if task.task and task.task_rows:
        yield "task writes rows and task_rows reads them: set one of the two."
    if task.stages and not task.task:
        yield "stages are options of a task, and no task is set."
    if task.task and not 0 < task.synthetic_fraction <= 1:
        yield f"synthetic_fraction is {task.synthetic_fraction}; it must be above 0 and at most 1."
    if only_task and has_rows:
        yield "The task's rows leave no room for the document's: set rows to none and prose to false" + (
            ", or a synthetic_fraction below 1." if task.task else "."
        )
    if task.task and task.synthetic_fraction < 1 and not has_rows:
        yield "synthetic_fraction is below 1, but there are no rows of a document for the rest."
    if task.task and task.synthetic_fraction == 1 and max_steps <= 0:
        yield "A task never ends by itself: set max_steps."
