"""The dataset card of a folder of task rows, which `load_dataset(folder)` reads: `card(settings, progress, first_row)`.

The licence is left to the publisher of the rows.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from datasets import Features, List, Value

from dlm_trl.notes.escape import code, markdown, printable, printable_json, redact
from dlm_trl.online.rows_folder import Progress, TaskRowsSettings

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_COLUMNS = {
    "step": ("int32", "step of the online run"),
    "index": ("int32", "position in the step"),
    "attempt": ("int32", "number of drafts rejected before this one"),
    "task": ("string", "name of the task"),
    "generated": ("string", "text written by the teacher"),
    "prompt": ("", "text or messages before the target"),
    "target": ("string", "text to learn"),
    "choices": ("[string]", "possible targets, if the task has choices"),
    "loss": ("string", "full: cross-entropy over the whole vocabulary"),
    "facts": ("string", "JSON: how the row was made (word, description, options, …)"),
    "input_ids": ("[int32]", "prompt and target, tokenised for the base"),
    "labels": ("[int32]", "the same, with -100 for the prompt"),
}
_MESSAGES = """
    list:
    - name: role
      dtype: string
    - name: content
      dtype: string"""


def card(settings: TaskRowsSettings, progress: Progress, first: Mapping[str, Any] | None) -> str:
    """The card as Markdown. first: any of the rows, or None; shows whether prompts are texts or messages."""
    has_messages = first is not None and _are_messages(first)
    size = size_category(progress.rows)
    base = _cell(settings.base_model) + (f" ({markdown(settings.base_revision)})" if settings.base_revision else "")
    teacher = "the base itself, without an adapter"
    if settings.teacher != "base":
        teacher = _cell(redact(settings.teacher)) + (
            f" ({markdown(settings.teacher_revision)})" if settings.teacher_revision else ""
        )
    packages = ", ".join(f"{name} {version(name)}" for name in ("dlm-trl", "torch", "transformers"))
    columns = "\n".join(f"| {name} | {meaning} |" for name, (_, meaning) in _COLUMNS.items())
    stages = "\n".join(f"{i + 1}. {code(json.dumps(options))}" for i, options in enumerate(settings.stages))
    return f"""---
# license: choose one; the terms of the base and the teacher apply to the text they generated
pretty_name: {printable_json(f"Rows of {settings.task}")}
size_categories: ["{size}"]
task_categories: [text-generation]
tags: [dlm, trl, synthetic]
configs:
- config_name: default
  data_files: data/*.jsonl
dataset_info:
  features:
{"".join(_feature(name, kind, has_messages) for name, (kind, _) in _COLUMNS.items())}---

# Rows of {markdown(settings.task)}

{progress.rows:,} rows, {progress.tokens:,} tokens. For each row, the answer was drawn first and the teacher wrote the
question, so the target is correct by construction. Stages, with {settings.steps} steps divided evenly among them:

{stages}

| | |
|---|---|
| task | {_cell(settings.task)} |
| base | {base}, {settings.dtype}, quantisation {settings.quantization or "none"} |
| teacher | {teacher}; it wrote {progress.new_tokens:,} tokens |
| seed | {settings.seed} |
| rows requested | {settings.n:,}, {settings.rows_per_step:,} per step |
| missing rows | {settings.n - progress.rows:,}, because all {settings.attempts} attempts were rejected |
| rejected drafts | {markdown(counts(progress.rejected))} |
| maximum row length | {settings.max_length:,} tokens |
| other inputs | {markdown(", ".join(settings.files) or "none")} |
| written with | {packages} |

An online run with the same settings trains on the same rows in the same steps.

## Columns

| | |
|---|---|
{columns}

## Use

    {_command(settings.base_model)}

or, with any TRL trainer, `load_dataset("FOLDER", split="train").select_columns(["input_ids", "labels"])`.
"""


def size_category(rows: int) -> str:
    """The Hub's name for a dataset of this size, such as 1K<n<10K."""
    return next((name for limit, name in _SIZES if rows < limit), "10M<n<100M")


def counts(rejected: Counter[str]) -> str:
    """Reasons with their counts, most frequent first."""
    return ", ".join(f"{reason}: {number:,}" for reason, number in rejected.most_common()) or "none"


def features(row: Mapping[str, Any]) -> Features:
    """The column types, explicit because they can't be inferred from rows without choices."""
    kinds = {name: kind for name, (kind, _) in _COLUMNS.items() if kind}
    text = Value("string")
    prompt = List({"role": text, "content": text}) if _are_messages(row) else text
    return Features(
        {name: List(Value(kind[1:-1])) if kind.startswith("[") else Value(kind) for name, kind in kinds.items()}
        | {"prompt": prompt}
    )


def _cell(text: str) -> str:
    """The text as inline code in a table, where a pipe ends the cell."""
    return code(text).replace("|", "\\|")


def _command(base_model: str) -> str:
    # Indented, on one line: a base's name may contain backticks.
    return printable(
        " ".join(f"python recipes/sft.py --task_rows FOLDER --base_model {shlex.quote(base_model)}".split())
    )


def _are_messages(row: Mapping[str, Any]) -> bool:
    return not isinstance(row["prompt"], str)


def _feature(name: str, kind: str, has_messages: bool) -> str:
    if name == "prompt":
        return f"  - name: prompt{_MESSAGES if has_messages else f'{chr(10)}    dtype: string'}\n"
    return f"  - name: {name}\n    {f'list: {kind[1:-1]}' if kind.startswith('[') else f'dtype: {kind}'}\n"
