"""Tasks by name: `load_tasks("mcsb", [{"choices": 3}, {"choices": 5}], tokenizer=tokenizer)`.

A name is `mcsb`, `arithmetic`, `prose_qa`, `span_qa`, or `FILE.py:NAME` for your own task: a class or function in that
file, which is called with a stage's options.
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
from dlm_trl.tasks.span_qa import SpanQa

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

TASKS = {"mcsb": Mcsb, "arithmetic": Arithmetic, "prose_qa": ProseQa, "span_qa": SpanQa}
ABOUT_NOTES = ("prose_qa", "span_qa")
_STAGES_HINT = """Write one mapping per stage: [{"choices": 3}, {"choices": 5}]."""
_NO_OPTIONS = ("tokenizer", "embeddings", "documents", "words")  # arguments that are not a stage's options


def load_tasks(
    name: str,
    stages: Sequence[Mapping[str, Any]] = ({},),
    *,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document] = (),
    embeddings: Tensor | None = None,
) -> list[Task]:
    """One task per stage, created with the stage's options. Lists become tuples, which YAML and JSON don't have.

    embeddings: the base's input embeddings. Without them, near distractors are replaced by random ones, so that
    everything else can be checked before the base is loaded. Raises DlmError (UsageError, TaskError) for unknown names
    and options, and whatever DlmError the task raises.
    """
    arguments: dict[str, Any] = {}
    if name == "mcsb":
        arguments = {"tokenizer": tokenizer, "embeddings": embeddings}
        if embeddings is None:
            arguments["distractors"] = "random"
    elif name in ABOUT_NOTES:
        if not documents:
            raise UsageError(f"The task {name} needs notes.", hint="Name a document.")
        arguments = {"documents": documents}
    create: Callable[..., Task] = TASKS.get(name) or _load_own(name)
    tasks = []
    for options in stages:
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        if name in TASKS:
            _check_options(name, options)
        try:
            tasks.append(create(**options | arguments))
        except (TypeError, ValueError) as error:
            problem = f"can't be created with the options {options}: {' '.join(str(error).split())}"
            raise _task_error(name, problem) from error
    return tasks


def read_stages(value: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """The options of each stage, from JSON or from YAML, where they are a list already.

    None is one stage with the task's defaults. Raises DlmError (UsageError).
    """
    try:
        stages = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UsageError(f"stages isn't valid JSON: {error}.", hint=_STAGES_HINT) from None
    stages = [stages] if isinstance(stages, Mapping) else [{}] if stages is None else stages
    if not (isinstance(stages, list) and stages and all(isinstance(stage, Mapping) for stage in stages)):
        raise UsageError("stages isn't a list of mappings.", hint=_STAGES_HINT)
    return stages


def option_names(name: str) -> list[str]:
    """The options of a built-in task."""
    return [f.name for f in fields(TASKS[name]) if f.init and f.name not in _NO_OPTIONS]


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that a built-in task doesn't have, or a value of the wrong type."""
    if unknown := options.keys() - set(known := option_names(name)):
        raise UsageError(
            f"The task {name} has no option {', '.join(sorted(unknown))}.",
            hint=f"Its options: {', '.join(known)}.",
        )
    # Types imported under TYPE_CHECKING belong to arguments that are not options.
    kinds = get_type_hints(TASKS[name], localns=dict.fromkeys(("Tensor", "PreTrainedTokenizerBase"), Any))
    for option, value in options.items():
        try:
            TypeAdapter(kinds[option]).validate_python(value, strict=True)
        except ValidationError as error:
            raise UsageError(
                f"Invalid {option}={value!r} for the task {name}.",
                hint=f"{' or '.join(problem['msg'] for problem in error.errors())}.",
            ) from None


def _load_own(name: str) -> Callable[..., Task]:
    """The class or function of a user's own task."""
    file, colon, attribute = name.rpartition(":")
    if not colon:
        raise UsageError(
            f"Unknown task {name!r}.",
            hint=f"Use {', '.join(TASKS)}, or FILE.py:NAME for your own task.",
        )
    if not Path(file).is_file():
        raise TaskError("No such file.", hint="Check the path in FILE.py:NAME.", path=Path(file))
    try:
        namespace = runpy.run_path(file)
    except Exception as error:  # a user's code may raise anything
        raise _task_error(name, f"can't be imported: {type(error).__name__}: {' '.join(str(error).split())}") from error
    create: Callable[..., Task] | None = namespace.get(attribute)
    if not callable(create):
        raise _task_error(name, f"doesn't exist: {file} has no class or function {attribute!r}")
    return create


def _task_error(name: str, problem: str) -> TaskError:
    return TaskError(f"The task {name} {problem}.", hint="Fix the task or its options.")
