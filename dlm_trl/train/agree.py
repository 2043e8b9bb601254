"""What all processes of a run must have in common: `run = agree(configuration, lambda: prepare(configuration))`.

Each process reads settings, document and checkpoints for itself. On several machines they can differ; a process that
starts from something else would wait for the others forever, or spoil the weights.
"""

import hashlib
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from torch import distributed

from dlm_trl.notes import DlmError
from dlm_trl.notes.terminal import say
from dlm_trl.train.config import Configuration
from dlm_trl.train.preference_config import PreferenceConfiguration
from dlm_trl.train.run import AdapterRun
from dlm_trl.train.settings import SECRET

AnyRun = TypeVar("AnyRun", bound=AdapterRun)
PACKAGES = ("dlm-trl", "torch", "transformers", "trl", "peft", "accelerate")
OWN = (SECRET, "env")  # settings that may differ
HINT = "Give all machines the same command and environment, and a disk that all see for document, output_dir, DLM_HOME."


@dataclass(frozen=True)
class Start:
    """What one process starts from, by name; or the error that keeps it from starting. token: names a file to try."""

    process: str
    facts: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    token: str = field(default_factory=secrets.token_hex)


def agree(configuration: Configuration | PreferenceConfiguration, prepare: Callable[[], AnyRun]) -> AnyRun:
    """The run as `prepare` returns it, in every process, once all of them start from the same.

    If they don't, or `prepare` raises a DlmError, that is shown once on each machine and all processes exit with 1. A
    single process just raises.
    """
    training = configuration.training
    if training.world_size == 1:
        return prepare()
    run, error = None, None
    with training.main_process_first(desc="reading the document"):
        try:
            run = prepare()
        except DlmError as caught:
            error = caught
    who = f"process {training.process_index} on {socket.gethostname()}"
    own = Start(who, _facts(configuration, run) if run else {}, str(error) if error else None)
    starts: list[Start] = [own] * training.world_size
    distributed.all_gather_object(starts, own)
    found = difference(starts)
    if run is not None and found is None:
        folder = Path(training.output_dir)
        blind = _blind(folder, starts, training.process_index)
        if blind and training.process_index == 0:
            say(f"Warning: {', '.join(blind)} can't see {folder}: no checkpoint can be resumed. {HINT}", err=True)
        return run
    if training.local_process_index == 0:
        say(found, err=True)
    distributed.barrier()  # the launcher stops the others once one ends
    sys.exit(1)


def difference(starts: Sequence[Start]) -> str | None:
    """Why these processes can't run together; None if they can."""
    first = starts[0]
    failed = [start for start in starts if start.error]
    if len(failed) == len(starts):
        return first.error
    if failed:
        return f"Only {failed[0].process}: {failed[0].error} {HINT}"
    lines = []
    for name, value in first.facts.items():
        if other := next((start for start in starts if start.facts.get(name) != value), None):
            lines.append(f"{name} is {value} in {first.process}, and {other.facts.get(name)} in {other.process}")
    return f"The processes of this run don't start from the same: {'; '.join(lines)}. {HINT}" if lines else None


def _blind(folder: Path, starts: Sequence[Start], rank: int) -> list[str]:
    """The processes that don't see what the first one writes into this folder."""
    probe = folder / f".{starts[0].token}"
    if rank == 0:
        probe.touch()
    distributed.barrier()
    seen = [False for _ in starts]
    distributed.all_gather_object(seen, probe.exists())
    if rank == 0:
        probe.unlink()
    return [start.process for start, sees in zip(starts, seen, strict=True) if not sees]


def _facts(configuration: Configuration | PreferenceConfiguration, run: AdapterRun) -> dict[str, str]:
    settings = {name: setting.value for name, setting in configuration.settings.items() if name not in OWN}
    return {
        **{package: version(package) for package in PACKAGES},
        "the document's SHA-256": hashlib.sha256(run.document.raw).hexdigest()[:12] if run.document else "none",
        "the checkpoint": run.checkpoint or "none",
        **{name: str(value) for name, value in (settings | run.resume_settings).items()},
    }
