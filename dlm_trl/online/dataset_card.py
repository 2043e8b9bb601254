"""The dataset card of a folder of rows: `card(settings, progress, first_row)`; it is what `load_dataset(folder)` reads.

The licence is left to whoever publishes the rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from datasets import Features, List, Value

from dlm_trl.online.rows_folder import Progress, TaskRowsSettings

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_COLUMNS = {
    "step": ("int32", "of the online run that this row belongs to"),
    "index": ("int32", "of the row in its step"),
    "attempt": ("int32", "how many drafts were rejected before this one"),
    "task": ("string", "its name"),
    "generated": ("string", "what the teacher wrote"),
    "prompt": ("", "what comes before the target: a text, or messages"),
    "target": ("string", "what is learned"),
    "choices": ("[string]", "the targets that there are to choose from, if there are"),
    "loss": ("string", "full: over the whole vocabulary"),
    "facts": ("string", "JSON: how the row came about (word, description, options, …)"),
    "input_ids": ("[int32]", "prompt and target as tokens of the base"),
    "labels": ("[int32]", "the same, with -100 before the target"),
}
_MESSAGES = """
    list:
    - name: role
      dtype: string
    - name: content
      dtype: string"""


def card(settings: TaskRowsSettings, progress: Progress, first: Mapping[str, Any] | None) -> str:
    """first: any of the rows, None where there is none; whether prompts are texts or messages is read from it."""
    said = first is not None and _are_messages(first)
    size = next((name for limit, name in _SIZES if progress.rows < limit), "10M<n<100M")
    base = f"`{settings.base_model}`" + (f" ({settings.base_revision})" if settings.base_revision else "")
    teacher = "the base itself, without an adapter"
    if settings.teacher != "base":
        teacher = f"`{settings.teacher}`" + (f" ({settings.teacher_revision})" if settings.teacher_revision else "")
    packages = ", ".join(f"{name} {version(name)}" for name in ("dlm-trl", "torch", "transformers"))
    columns = "\n".join(f"| {name} | {meaning} |" for name, (_, meaning) in _COLUMNS.items())
    stages = "\n".join(f"{i + 1}. `{json.dumps(options)}`" for i, options in enumerate(settings.stages))
    return f"""---
# license: yours to choose; the terms of the base and of the teacher hold for what they wrote
pretty_name: Rows of {settings.task}
size_categories: ["{size}"]
task_categories: [text-generation]
tags: [dlm, trl, synthetic]
configs:
- config_name: default
  data_files: data/*.jsonl
dataset_info:
  features:
{"".join(_feature(name, kind, said) for name, (kind, _) in _COLUMNS.items())}---

# Rows of {settings.task}

{progress.rows:,} rows, {progress.tokens:,} tokens of the base. For each row the answer was drawn first and the teacher
wrote the question, so the target is known by construction. Stages, with {settings.steps} steps divided evenly:

{stages}

| | |
|---|---|
| task | `{settings.task}` |
| base | {base}, {settings.dtype}, quantisation {settings.quantization or "none"} |
| teacher | {teacher}; it wrote {progress.new_tokens:,} tokens |
| seed | {settings.seed} |
| rows asked for | {settings.n:,}, {settings.rows_per_step:,} a step |
| rows left out | {settings.n - progress.rows:,}, whose {settings.attempts} attempts were all rejected |
| rejected drafts | {counts(progress.rejected)} |
| longest row | at most {settings.max_length:,} tokens |
| read besides | {", ".join(settings.files) or "nothing"} |
| written with | {packages} |

The same settings give an online run the same rows, in the same steps.

## Columns

| | |
|---|---|
{columns}

## Use

```
python recipes/sft.py --task_rows FOLDER --base_model {settings.base_model}
```

or, with any trainer of TRL, `load_dataset("FOLDER", split="train").select_columns(["input_ids", "labels"])`.
"""


def counts(rejected: Counter[str]) -> str:
    """Reasons with their numbers, the most frequent first."""
    return ", ".join(f"{reason}: {number:,}" for reason, number in rejected.most_common()) or "none"


def features(row: Mapping[str, Any]) -> Features:
    """Of the columns, as the card says them: where the first rows have no choices, nothing else tells their type."""
    kinds = {name: kind for name, (kind, _) in _COLUMNS.items() if kind}
    text = Value("string")
    prompt = List({"role": text, "content": text}) if _are_messages(row) else text
    return Features(
        {name: List(Value(kind[1:-1])) if kind.startswith("[") else Value(kind) for name, kind in kinds.items()}
        | {"prompt": prompt}
    )


def _are_messages(row: Mapping[str, Any]) -> bool:
    return not isinstance(row["prompt"], str)


def _feature(name: str, kind: str, said: bool) -> str:
    if name == "prompt":
        return f"  - name: prompt{_MESSAGES if said else f'{chr(10)}    dtype: string'}\n"
    return f"  - name: {name}\n    {f'list: {kind[1:-1]}' if kind.startswith('[') else f'dtype: {kind}'}\n"
