"""The README.md of a merged or quantised model: where it comes from, what was checked, and the line that serves it."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from dlm_trl.export.adapter import TENSORS
from dlm_trl.export.checks import Check, table
from dlm_trl.models.lineage import Step, last
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.files import replace_file


def write_card(folder: Path, steps: Sequence[Step], name: str) -> None:
    """Write README.md into the folder, which holds config.json already; `name` is the path to serve it from."""
    replace_file(folder / "README.md", model_card(folder, steps, name).encode())


def model_card(folder: Path, steps: Sequence[Step], name: str) -> str:
    """The text of the card. Model ids, counts and hashes come from the lineage; nothing of the notes' text is in it."""
    base = steps[-1].get("base") or next((step["base"] for step in reversed(steps) if step.get("base")), None)
    quantized = last(steps, "awq") is not None
    tags = ", ".join(["dlm", "trl", "sft", *(["awq", "4-bit"] if quantized else [])])
    # The Hub takes ids of its own alone, and refuses a card that names a folder.
    head = [f"base_model: {json.dumps(published)}"] if base and (published := ModelRef.from_record(base).hub_id) else []
    head += ["library_name: transformers", "pipeline_tag: text-generation"]
    kind = "4-bit AWQ" if quantized else "16-bit safetensors"
    parts = [
        "---\n" + "\n".join([*head, f"tags: [{tags}]"]) + "\n---",
        f"# {Path(name).resolve().name}",
        f"{kind}, made from {f'`{base}`' if base else 'a base model'} by the steps below; `lineage.json` has it all.",
        "## Lineage",
        "\n".join(f"{number}. {_step(step)}" for number, step in enumerate(steps, start=1)),
        *_checks(steps),
        "## Serve it",
        f"```\n{serve_line(folder, name)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def serve_line(folder: Path, name: str) -> str:
    """The command that serves the model with vLLM as an OpenAI-compatible server.

    AWQ's kernels compute in float16; the context is said because vLLM reserves memory for all of it. The chat template
    and the stop tokens are taken from the folder.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    words = ["vllm", "serve", name, "--served-model-name", Path(name).resolve().name]
    if config.get("quantization_config", {}).get("quant_method") == "awq":
        words += ["--quantization", "awq", "--dtype", "float16"]
    if context := config.get("max_position_embeddings"):
        words += ["--max-model-len", str(context)]
    return shlex.join(words)


def _step(step: Step) -> str:
    match step["step"]:
        case "train":
            written = ", ".join(f"{count} by {who}" for who, count in step["rows"].items())
            about = [f"document `{step['document']}`"] if step["document"] else []
            about += [f"rows: {written}"] if written else []
            about += [f"task `{Path(step['task']).name}`"] if step["task"] else []
            adapter = step["adapter"]
            on = f" on the base in {step['quantization']}" if step["quantization"] else ""
            on += f" on a base {source}" if (source := step.get("base_source")) else ""
            return f"Trained: {adapter['type']}, rank {adapter['rank']}{on}, seed {step['seed']}; {'; '.join(about)}."
        case "merge":
            revision = f" at {step['base_revision']}" if step.get("base_revision") else ""
            adapter = f"sha256 of the adapter: {step['adapter'][TENSORS][:16]}…"
            return f"Merged into `{step['base']}`{revision}, in float32, stored as {step['dtype']}; {adapter}."
        case "awq":
            data = step["calibration"]
            return (
                f"Quantised by AWQ: {step['bits']} bits, groups of {step['group_size']}, calibrated on "
                f"{data['tokens']:,} tokens of `{Path(data['file']).name}` and general text, seed {data['seed']}."
            )
        case other:
            return f"{other}."


def _checks(steps: Sequence[Step]) -> list[str]:
    found = steps[-1].get("checks")
    if not found:
        return []
    return ["## Checked against the step before", table([Check(**check) for check in found])]
