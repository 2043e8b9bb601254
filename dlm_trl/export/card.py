"""The README.md of a merged or quantised model: where it comes from, what was checked, and the line that serves it."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from dlm_trl.export.adapter import TENSORS
from dlm_trl.export.checks import Check, table
from dlm_trl.models.lineage import Hop, last
from dlm_trl.models.registry import hub_id
from dlm_trl.notes.files import replace_file


def write_card(folder: Path, hops: Sequence[Hop], name: str) -> None:
    """Write README.md into the folder, which holds config.json already; `name` is the path to serve it from."""
    replace_file(folder / "README.md", model_card(folder, hops, name).encode())


def model_card(folder: Path, hops: Sequence[Hop], name: str) -> str:
    """The text of the card. Model ids, counts and hashes come from the lineage; nothing of the notes' text is in it."""
    base = hops[-1].get("base") or next((hop["base"] for hop in reversed(hops) if hop.get("base")), None)
    quantized = last(hops, "awq") is not None
    tags = ", ".join(["dlm", "trl", "sft", *(["awq", "4-bit"] if quantized else [])])
    # The Hub takes ids of its own alone, and refuses a card that names a folder.
    head = [f"base_model: {json.dumps(published)}"] if base and (published := hub_id(base)) else []
    head += ["library_name: transformers", "pipeline_tag: text-generation"]
    kind = "4-bit AWQ" if quantized else "16-bit safetensors"
    parts = [
        "---\n" + "\n".join([*head, f"tags: [{tags}]"]) + "\n---",
        f"# {Path(name).resolve().name}",
        f"{kind}, made from {f'`{base}`' if base else 'a base model'} by the steps below; `lineage.json` has it all.",
        "## Lineage",
        "\n".join(f"{number}. {_step(hop)}" for number, hop in enumerate(hops, start=1)),
        *_checks(hops),
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


def _step(hop: Hop) -> str:
    match hop["hop"]:
        case "train":
            written = ", ".join(f"{count} by {who}" for who, count in hop["rows"].items())
            about = [f"document `{hop['document']}`"] if hop["document"] else []
            about += [f"rows: {written}"] if written else []
            about += [f"task `{Path(hop['task']).name}`"] if hop["task"] else []
            adapter = hop["adapter"]
            on = f" on the base in {hop['quantization']}" if hop["quantization"] else ""
            on += f" on a base {source}" if (source := hop.get("base_source")) else ""
            return f"Trained: {adapter['type']}, rank {adapter['rank']}{on}, seed {hop['seed']}; {'; '.join(about)}."
        case "merge":
            revision = f" at {hop['base_revision']}" if hop.get("base_revision") else ""
            adapter = f"sha256 of the adapter: {hop['adapter'][TENSORS][:16]}…"
            return f"Merged into `{hop['base']}`{revision}, in float32, stored as {hop['dtype']}; {adapter}."
        case "awq":
            data = hop["calibration"]
            return (
                f"Quantised by AWQ: {hop['bits']} bits, groups of {hop['group_size']}, calibrated on "
                f"{data['tokens']:,} tokens of `{Path(data['file']).name}` and general text, seed {data['seed']}."
            )
        case other:
            return f"{other}."


def _checks(hops: Sequence[Hop]) -> list[str]:
    found = hops[-1].get("checks")
    if not found:
        return []
    return ["## Checked against the step before", table([Check(**check) for check in found])]
