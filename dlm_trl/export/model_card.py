"""The model card (README.md) of an exported model: where it comes from, what was checked, and how to serve it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from dlm_trl.evaluation.training_card import licence_part, python_block, training_parts
from dlm_trl.export.checks import Check, table
from dlm_trl.export.step_info import INFO, StepInfo
from dlm_trl.models.card_header import card_header
from dlm_trl.models.lineage import Step
from dlm_trl.notes.escape import code, markdown, printable, redact, without_folders


def model_card(folder: Path, records: Sequence[Step], name: str, license: str | None = None) -> str:
    """The text of the card for a folder that already has its config.json.

    name: the path or repository it will be loaded and served from. license: an id of the Hub; by default the base's.
    Model ids, counts and hashes come from the lineage. The card doesn't quote the notes, and names no folders.
    """
    step = INFO[records[-1]["step"]]
    base = next((record["base"] for record in reversed(records) if record.get("base")), None)
    made_from = code(without_folders(base)) if base else "a base model"
    parts = [
        card_header(base, "transformers", ["dlm", "trl", "sft", *step.tags], license),
        f"# {markdown(Path(name).resolve().name)}",
        f"{step.weights}, made from {made_from} by the steps below. `lineage.json` has the details.",
        licence_part(base, license),
        "## Lineage",
        "\n".join(f"{number}. {_line(record)}" for number, record in enumerate(records, start=1)),
        *training_parts(records),
        *_checks(records[-1]),
        *_loading(step, name),
        "## Serve it",
        _block(step.serve_command(folder, name)),
    ]
    return "\n\n".join(parts) + "\n"


def _line(record: Step) -> str:
    name = record["step"]
    if name == "train":
        return _training_line(record)
    return INFO[name].card_line(record) if name in INFO else f"{markdown(name)}."


def _training_line(record: Step) -> str:
    rows = ", ".join(
        f"{markdown(count)} by {markdown(redact(without_folders(author)))}" for author, count in record["rows"].items()
    )
    data = [f"document {code(record['document'])}"] if record["document"] else []
    data += [f"rows: {rows}"] if rows else []
    data += [f"task {code(Path(record['task']).name)}"] if record["task"] else []
    adapter = record["adapter"]
    base = f" on the base in {markdown(record['quantization'])}" if record["quantization"] else ""
    base += f" on a base {markdown(source)}" if (source := record.get("base_source")) else ""
    return (
        f"Trained: {markdown(adapter['type'])}, rank {adapter['rank']}{base}, seed {record['seed']}; {'; '.join(data)}."
    )


def _checks(record: Step) -> list[str]:
    checks = record.get("checks")
    if not checks:
        return ["Not checked against the step before."]
    return ["## Checked against the step before", table([Check(**check) for check in checks])]


def _loading(step: StepInfo, name: str) -> list[str]:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        *([f"# needs {step.needs}"] if step.needs else []),
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})",
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(name)})",
    ]
    return ["## Load it", python_block(lines)]


def _block(command: str) -> str:
    """A block of code; a folder's name may contain backticks."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}\n{printable(command)}\n{fence}"
