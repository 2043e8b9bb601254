"""Tasks by name, as configurations and command lines have them: `load_tasks("mcsb", [{"choices": 3}, {"choices": 5}])`.

A name is `mcsb`, `arithmetic`, `prose_qa`, or `FILE.py:NAME` for a task of one's own: what stands under that name in
that file, called with a stage's options.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from dlm_trl.notes import Document
from dlm_trl.notes.errors import TaskError, UsageError
from dlm_trl.tasks.arithmetic import Arithmetic
from dlm_trl.tasks.mcsb import Mcsb
from dlm_trl.tasks.prose_qa import ProseQa
from dlm_trl.tasks.protocol import Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

TASKS = {"mcsb": Mcsb, "arithmetic": Arithmetic, "prose_qa": ProseQa}
_STAGES_HINT = """Write a mapping for each stage: [{"choices": 3}, {"choices": 5}]."""
_NOT_SAID = ("tokenizer", "embeddings", "documents", "words")  # are given here, or are no options


def load_tasks(
    name: str,
    stages: Sequence[Mapping[str, Any]] = ({},),
    *,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document] = (),
    embeddings: Tensor | None = None,
) -> list[Task]:
    """The task once for each stage's options. Lists among the options become tuples, which YAML and JSON cannot say.

    embeddings: the base's, where it is loaded already; without them a stage with near distractors gets random ones, so
    that all else about it can be checked before. Raises DlmError (UsageError, TaskError) for names and options that do
    not exist, and what the task itself refuses.
    """
    given: dict[str, Any] = {}
    if name == "mcsb":
        given = {"tokenizer": tokenizer, "embeddings": embeddings}
        if embeddings is None:
            given["distractors"] = "random"
    elif name == "prose_qa":
        if not documents:
            raise UsageError("The task prose_qa needs notes.", hint="Name a document.")
        given = {"documents": documents}
    make = TASKS.get(name) or _own(name)
    tasks = []
    for options in stages:
        said = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        if name in TASKS:
            _check_options(name, said)
        try:
            tasks.append(make(**said | given))
        except (TypeError, ValueError) as error:
            raise _task_error(
                name, f"cannot be made with the options {said}: {' '.join(str(error).split())}"
            ) from error
    return tasks


def read_stages(said: str | Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """The options of each stage, from YAML (a list already) or JSON. Raises DlmError (UsageError)."""
    try:
        stages = json.loads(said) if isinstance(said, str) else said
    except ValueError as error:
        raise UsageError(f"stages is no JSON: {error}.", hint=_STAGES_HINT) from None
    stages = [stages] if isinstance(stages, Mapping) else [{}] if stages is None else stages
    if not (isinstance(stages, list) and stages and all(isinstance(stage, Mapping) for stage in stages)):
        raise UsageError("stages is no list of mappings.", hint=_STAGES_HINT)
    return stages


def option_names(name: str) -> list[str]:
    """What can be said of one of our own tasks."""
    return [f.name for f in fields(TASKS[name]) if f.init and f.name not in _NOT_SAID]


def _check_options(name: str, said: Mapping[str, Any]) -> None:
    """Raises DlmError (UsageError) for options that one of our own tasks does not have, and values they cannot have."""
    if unknown := said.keys() - set(known := option_names(name)):
        raise UsageError(
            f"The task {name} has no option {', '.join(sorted(unknown))}.",
            hint=f"It has: {', '.join(known)}.",
        )
    # What is imported for the type checker alone is no option's.
    kinds = get_type_hints(TASKS[name], localns=dict.fromkeys(("Tensor", "PreTrainedTokenizerBase"), Any))
    for option, value in said.items():
        try:
            TypeAdapter(kinds[option]).validate_python(value, strict=True)
        except ValidationError as error:
            raise UsageError(
                f"The task {name} cannot have {option}={value!r}.",
                hint=f"{' or '.join(problem['msg'] for problem in error.errors())}.",
            ) from None


def _own(name: str) -> Callable[..., Task]:
    """The maker of a user's own task."""
    file, colon, attribute = name.rpartition(":")
    if not colon:
        raise UsageError(
            f"There is no task {name!r}.",
            hint=f"It is one of {', '.join(TASKS)}, or FILE.py:NAME for one of your own.",
        )
    if not Path(file).is_file():
        raise TaskError("There is no such file with a task.", path=Path(file))
    try:
        found = runpy.run_path(file)
    except Exception as error:  # whatever a user's own code raises
        raise _task_error(name, f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not callable(found.get(attribute)):
        raise _task_error(name, f"is not there: {file} has no class or function {attribute!r}")
    return found[attribute]


def _task_error(name: str, problem: str) -> TaskError:
    return TaskError(f"The task {name} {problem}.", hint="Mend the task or its options.")
