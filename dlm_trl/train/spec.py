"""What a run is measured with: the settings of the recipe become an `EvaluationSpec`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.evaluation.suite import CONDITIONS
from dlm_trl.online.rows_folder import read_settings
from dlm_trl.tasks.load import read_stages
from dlm_trl.tasks.mcsb import HELD_OUT
from dlm_trl.train.arguments import NotesArguments, TaskArguments


def evaluation_spec(notes: NotesArguments, task: TaskArguments, seed: int) -> EvaluationSpec:
    """The questions about the document and those about the task. Raises DlmError for stages that can't be read."""
    name, stages = trained_task(task)
    return EvaluationSpec(
        notes=absolute(notes.notes),
        rows=notes.rows,
        adapter_name=notes.adapter_name,
        validation_fraction=notes.validation_fraction,
        split_method=notes.split_method,
        seed=seed,
        questions=absolute(notes.questions),
        max_questions=notes.max_questions,
        conditions=task.conditions or (CONDITIONS if name == "mcsb" else ()),
        condition_questions=task.condition_questions,
        held_out=stages[0].get("held_out", HELD_OUT) if name == "mcsb" else HELD_OUT,
        glosses=absolute(task.glosses),
    )


def trained_task(task: TaskArguments) -> tuple[str | None, Sequence[Mapping[str, Any]]]:
    """The name and stages of the task that the model trains on, whether its rows exist already or not."""
    if task.task_rows:
        settings = read_settings(Path(task.task_rows))
        return settings.task, settings.stages
    return task.task, read_stages(task.stages)


def absolute(file: str | None) -> str | None:
    """The absolute path of a file, because later steps may run in another working directory."""
    return file and str(Path(file).expanduser().resolve())
