"""A task in the run: its rows in the trainer's steps, and how well the model does it before, on the way and after.

problems = check(configuration, tokenizer, has_rows)      # no weights yet
attach(trainer, configuration)                            # once there is a trainer
trainer.train()
measures = skill_measures(trainer.state.log_history)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer
from trl.trainer.utils import maybe_gather_lm_head_ctx

from dlm_trl.evaluation.during import MeasureDuring
from dlm_trl.evaluation.report import Measure
from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.evaluation.suite import CONDITIONS, condition_tasks, read_glosses
from dlm_trl.notes import DlmError, Document
from dlm_trl.online.callback import OnlineSynthesisCallback
from dlm_trl.online.curriculum import Curriculum
from dlm_trl.online.rows_folder import read_settings
from dlm_trl.online.rows_on_disk import load_rows
from dlm_trl.rows.convert import convert
from dlm_trl.rows.load import load_dlm
from dlm_trl.rows.split import split
from dlm_trl.tasks.load import load_tasks, read_stages
from dlm_trl.tasks.mcsb import HELD_OUT
from dlm_trl.tasks.protocol import smoke_test
from dlm_trl.teachers.load import inspect_teacher, is_self, load_teacher
from dlm_trl.train.config import Configuration

SHOWN = ("accuracy", "ppa")  # of each condition, in the table before and after


def check(configuration: Configuration, tokenizer: PreTrainedTokenizerBase, has_rows: bool) -> list[str]:
    """What is wrong with the task and its measurement; has_rows: whether there are rows of the document to train on."""
    said, problems = configuration.task, []
    if said.task and said.task_rows:
        problems.append("task writes rows and task_rows reads them: set one of the two.")
    if said.stages and not said.task:
        problems.append("stages are options of a task, and no task is set.")
    if said.task and not 0 < said.synthetic_fraction <= 1:
        problems.append(f"synthetic_fraction is {said.synthetic_fraction}; it is a share above 0, up to 1.")
    alone = said.task_rows or (said.task and said.synthetic_fraction == 1)
    if alone and has_rows:
        problems.append(
            "The task's rows leave no place for those of the document: set rows to none and prose to false"
            + (", or a synthetic_fraction below 1." if said.task else ".")
        )
    if said.task and said.synthetic_fraction < 1 and not has_rows:
        problems.append("synthetic_fraction is below 1, and no rows of a document are there for the rest.")
    if said.task and said.synthetic_fraction == 1 and configuration.training.max_steps <= 0:
        problems.append("A task has no end of its own: set max_steps.")
    try:
        if said.task_rows:
            load_rows(said.task_rows, tokenizer, configuration.training.max_length)
        if said.task:
            for task in open_curriculum(configuration, tokenizer).stages:
                smoke_test(task, said.task, configuration.training.seed)
            if is_self(said.task_teacher) and configuration.document is None:
                problems.append("task_teacher is self, the adapter of a document, and there is no document.")
            elif said.task_teacher != "base":
                inspect_teacher(said.task_teacher, configuration.document)
        name, stages = learned(configuration)
        if name == "mcsb" and len({stage.get("held_out", HELD_OUT) for stage in stages}) > 1:
            problems.append("The stages differ in held_out, so that one would train the words that another holds out.")
        if name == "mcsb" and any(stage.get("split") == "held_out" for stage in stages):
            problems.append("split held_out are the words that are asked about; a run trains the others. Leave it out.")
        if names := conditions(configuration):
            condition_tasks(tokenizer, names, held_out=held_out(configuration))
        if said.glosses:
            read_glosses(Path(said.glosses))
            if not names:
                problems.append("glosses are measured with the first of the conditions: set conditions.")
    except (DlmError, ValueError) as error:
        problems.append(str(error))
    return problems


def open_curriculum(
    configuration: Configuration, tokenizer: PreTrainedTokenizerBase, embeddings: torch.Tensor | None = None
) -> Curriculum:
    """The task's stages. Raises DlmError for what cannot be."""
    said = configuration.task
    documents = [_asked_about(configuration)] if said.task == "prose_qa" and configuration.document else []
    stages = read_stages(said.stages)
    tasks = load_tasks(said.task, stages, tokenizer=tokenizer, documents=documents, embeddings=embeddings)
    return Curriculum(tasks, said.stage_accuracy, said.stage_window)


def _asked_about(configuration: Configuration) -> Document:
    """The document with the prose that its adapter learns, and without what is held out, where prose is."""
    document = configuration.document
    if configuration.notes.prose:
        rows = learned_prose(configuration)[0] or ()
    else:
        rows = convert(document, "prose", configuration.notes.adapter_name)
    ids = {row["section_id"] for row in rows}
    return replace(document, sections=tuple(section for section in document.sections if section.section_id in ids))


def learned_prose(configuration: Configuration) -> tuple[Dataset | None, Dataset | None]:
    """The document's prose that is learned and that is held out; None where there is none of a kind."""
    notes, seed = configuration.notes, configuration.training.seed
    parts = split(all_prose(configuration), notes.validation_fraction, seed, notes.split_method)
    return parts["train"] or None, parts["validation"] or None


def all_prose(configuration: Configuration) -> Dataset:
    """The document's prose that is for the adapter, with that of the files it names."""
    notes = configuration.notes
    return load_dlm(
        notes.notes, "prose", split="train", adapter=notes.adapter_name, expand_sources=notes.expand_sources
    )


def learned(configuration: Configuration) -> tuple[str | None, Sequence[Mapping[str, Any]]]:
    """The task's name and stages, be its rows written during the run or before it."""
    if configuration.task.task_rows:
        settings = read_settings(configuration.task.task_rows)
        return settings.task, settings.stages
    return configuration.task.task, read_stages(configuration.task.stages)


def conditions(configuration: Configuration) -> Sequence[str]:
    """What is measured: what the configuration says, else what suits the task."""
    return configuration.task.conditions or (CONDITIONS if learned(configuration)[0] == "mcsb" else ())


def held_out(configuration: Configuration) -> float:
    """The share of words that the task keeps from training."""
    name, stages = learned(configuration)
    return stages[0].get("held_out", HELD_OUT) if name == "mcsb" else HELD_OUT


def eval_spec(configuration: Configuration) -> EvaluationSpec:
    """What the run is examined with: questions about the document, and those about a skill."""
    notes, task = configuration.notes, configuration.task
    return EvaluationSpec(
        notes=_anywhere(notes.notes),
        rows=notes.rows,
        adapter_name=notes.adapter_name,
        validation_fraction=notes.validation_fraction,
        split_method=notes.split_method,
        seed=configuration.training.seed,
        questions=_anywhere(notes.questions),
        max_questions=notes.max_questions,
        conditions=conditions(configuration),
        condition_questions=task.condition_questions,
        held_out=held_out(configuration),
        glosses=_anywhere(task.glosses),
    )


def _anywhere(file: str | None) -> str | None:
    """The path as any folder has it: a later step may be taken in another one."""
    return file and str(Path(file).expanduser().resolve())


def attach(trainer: SFTTrainer, configuration: Configuration) -> OnlineSynthesisCallback | None:
    """Put the task's rows into the trainer's steps, where there is a task, and its measurements beside them."""
    said, tokenizer = configuration.task, trainer.processing_class
    online = None
    if said.task:
        model = trainer.accelerator.unwrap_model(trainer.model)
        weight = model.get_input_embeddings().weight
        with maybe_gather_lm_head_ctx(weight, None):
            curriculum = open_curriculum(configuration, tokenizer, weight.detach().float().cpu())
        base = said.task_teacher == "base"
        online = OnlineSynthesisCallback(
            curriculum,
            seed=trainer.args.seed,
            synthetic_fraction=said.synthetic_fraction,
            teacher="base" if base else load_teacher(said.task_teacher, configuration.document),
        ).attach(trainer)
    if conditions(configuration):
        trainer.add_callback(
            MeasureDuring(trainer, partial(eval_spec(configuration).question_sets, tokenizer=tokenizer))
        )
    return online


def skill_measures(history: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """What `MeasureDuring` logged first and last, for the table before and after."""
    lines = [line for line in history if any(name.startswith("eval_mcsb/") for name in line)]
    if not lines:
        return []
    first, last = lines[0], lines[-1]
    return [
        # A resumed run may measure what the first one did not.
        Measure(name.removeprefix("eval_"), "share", first.get(name) if first["step"] == 0 else None, last[name])
        for name in last
        if name.startswith("eval_mcsb/") and name.endswith(SHOWN)
    ]
