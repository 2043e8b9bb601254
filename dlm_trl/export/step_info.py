"""What lineage and model cards need to know about each step: data and texts, nothing that runs the step.

The modules that run a step write these files, so this one must not import them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlm_trl.export.serve_command import vllm_command
from dlm_trl.models.lineage import Fields, Step
from dlm_trl.models.load import TENSORS
from dlm_trl.notes.escape import code, markdown, without_folders


@dataclass(frozen=True)
class StepInfo:
    """How a step is recorded and described."""

    name: str
    """What lineage.json calls it."""
    weights: str
    """How the model card describes the weights."""
    needs: str
    """What loading it with transformers needs besides, "" for nothing."""
    tags: tuple[str, ...]
    """Tags of the model card."""
    fields: Fields
    """What its record in lineage.json must contain, as `models.lineage` checks it."""
    card_line: Callable[[Step], str]
    """Its line in the model card, from its record."""
    serve_command: Callable[[Path, str], str]
    """The command that serves the model in a folder under a path or name."""


def _merge_line(record: Step) -> str:
    base = code(without_folders(record["base"]))
    revision = f" at {markdown(record['base_revision'])}" if record.get("base_revision") else ""
    adapter = f"sha256 of the adapter: {markdown(record['adapter'][TENSORS][:16])}…"
    return f"Merged into {base}{revision}, in float32, stored as {markdown(record['dtype'])}; {adapter}."


def _awq_line(record: Step) -> str:
    data = record["calibration"]
    return (
        f"Quantised by AWQ: {record['bits']} bits, groups of {record['group_size']}, calibrated on "
        f"{data['tokens']:,} tokens of {code(Path(data['file']).name)} and general text, seed {data['seed']}."
    )


def _awq_command(folder: Path, name: str) -> str:
    # vLLM's AWQ kernels compute in float16 only.
    return vllm_command(folder, name, "--quantization", "awq", "--dtype", "float16")


MERGE_INFO = StepInfo(
    name="merge",
    weights="16-bit safetensors",
    needs="",
    tags=(),
    fields={"base": str, "adapter": {TENSORS: str}, "dtype": str, "shards": dict},
    card_line=_merge_line,
    serve_command=vllm_command,
)
AWQ_INFO = StepInfo(
    name="awq",
    weights="4-bit AWQ",
    needs="gptqmodel",
    tags=("awq", "4-bit"),
    fields={
        "calibration": {"file": str, "sha256": str, **dict.fromkeys(("samples", "seed", "length", "tokens"), int)},
        "bytes": {"written": int, "predicted": int},
        "shards": dict,
        **dict.fromkeys(("bits", "group_size", "smoothed"), int),
    },
    card_line=_awq_line,
    serve_command=_awq_command,
)
INFO: dict[str, StepInfo] = {info.name: info for info in (MERGE_INFO, AWQ_INFO)}
