"""Which of accelerate's launch files, `accelerate_configs/*.yaml`, can work on this machine, and why the others can't.

obstacle(read_launch_file(path), here())     # None, or "needs GPUs; this machine has none"
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from dlm_trl.notes.extras import install_command
from dlm_trl.notes.shipped import shipped


@dataclass(frozen=True)
class LaunchFile:
    """A launch file, as far as it decides where it works.

    kind: accelerate's distributed type (NO, MULTI_GPU, FSDP, DEEPSPEED). processes: how many it starts, over all
    machines. for_cpu: it's meant to be tried without a GPU. offloads: DeepSpeed keeps tensors in the CPU's memory.
    """

    path: Path
    kind: str
    processes: int
    machines: int
    for_cpu: bool
    offloads: bool


@dataclass(frozen=True)
class Here:
    """What launch files need of a machine."""

    gpus: int
    deepspeed: bool


def here() -> Here:
    """This machine."""
    return Here(torch.cuda.device_count(), find_spec("deepspeed") is not None)


def launch_files() -> list[LaunchFile]:
    """The launch files that come with dlm-trl, by name."""
    return [read_launch_file(path) for path in sorted(shipped("accelerate_configs").glob("*.yaml"))]


def read_launch_file(path: Path) -> LaunchFile:
    """Raises OSError, yaml.YAMLError or KeyError for a file that isn't one."""
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    deepspeed = data.get("deepspeed_config") or {}
    offloads = any(deepspeed.get(f"offload_{what}_device", "none") != "none" for what in ("optimizer", "param"))
    return LaunchFile(
        path,
        data["distributed_type"],
        data["num_processes"],
        data["num_machines"],
        "cpu" in path.stem.split("_"),
        offloads,
    )


def obstacle(file: LaunchFile, here: Here) -> str | None:
    """Why the file can't work here; None if it can."""
    if file.kind == "DEEPSPEED" and not here.deepspeed:
        return f"needs DeepSpeed: {install_command('deepspeed')}"
    if file.for_cpu:
        return "is for machines without a GPU" if here.gpus else None
    if file.machines > 1:
        return None if here.gpus else "needs a GPU on every machine"
    if file.kind != "NO" and not here.gpus:
        return "needs GPUs; this machine has none"
    if file.processes > here.gpus > 0 and file.kind != "NO":
        remedy = f"add --num_processes {here.gpus}"
        return f"starts {file.processes} processes, but this machine has {here.gpus} GPU: {remedy}"
    return None


def fitting(here: Here) -> tuple[LaunchFile, int]:
    """The launch file with which a small model trains fastest here, and the number of processes."""
    name = "ddp" if here.gpus > 1 else "single"
    return read_launch_file(shipped(f"accelerate_configs/{name}.yaml")), max(1, here.gpus)
