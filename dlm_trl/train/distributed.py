"""What several processes need: on a machine without a GPU (`prepare_deepspeed`, before TRL is imported), before torch
connects them (`meet`), and when one of them ends.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from dlm_trl.notes.errors import DlmError, ProcessError
from dlm_trl.notes.terminal import say

if TYPE_CHECKING:
    from transformers import TrainingArguments

MEETING = timedelta(minutes=10)  # from the first process that has read its files to the last
TELLING = timedelta(seconds=10)
TO_RESUME = "To resume: --resume_from_checkpoint true --overwrite true."


def prepare_deepspeed() -> None:
    """On machines without a GPU, keep DeepSpeed from compiling its shared-memory operator at start.

    The operator only speeds up communication between CPU processes. Building it takes over a minute, and a build that
    is killed leaves a lock that later runs wait for. `accelerate launch` says through the environment whether DeepSpeed
    is used.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        return
    import torch

    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def meet(problem: str = "") -> None:
    """Wait until all processes of a launch have read their files. problem: why this one can't go on, which the others
    then raise as a DlmError (ProcessError).

    Torch connects the processes next, and would wait half an hour for one that has ended on another machine.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # a single process, or another launcher
        return
    from torch.distributed import DistError, TCPStore

    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, timeout = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), TELLING if problem else MEETING
    try:
        store = TCPStore(*address, is_master=False, timeout=timeout)
        store.set(f"dlm_trl/{rank}", problem and f"Process {rank} on {socket.gethostname()} has ended: {problem}")
        found = [store.get(f"dlm_trl/{other}").decode() for other in range(count)] if not problem else []
    except DistError as error:
        raise ProcessError(
            f"The other processes can't be reached: {str(error).splitlines()[0].rstrip('.')}.",
            "If one has ended, its own message says why. Else check the address, the port and the firewall.",
        ) from error
    if any(found):
        raise ProcessError(next(filter(None, found)))


def sharding(training: TrainingArguments) -> str | None:
    """How the optimizer's state is divided, which a run that resumes can't change; None if each process has all."""
    if plugin := training.deepspeed_plugin:
        return f"DeepSpeed ZeRO-{plugin.zero_stage} on {training.world_size} processes"
    return "FSDP" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else None


def refuse(error: DlmError) -> NoReturn:
    """End this process with the error, and tell the others."""
    rank = os.environ.get("RANK", "0")
    say(error if rank == "0" else f"[rank {rank}] {error}", err=True)
    if not isinstance(error, ProcessError):
        with suppress(ProcessError):
            meet(str(error))
    exit_worker(1)
    sys.exit(1)


def exit_worker(code: int = 0) -> None:
    """Exit immediately with this code if this is one of several processes; a single process goes on.

    The threads of a process group live as long as a model that holds it, and can abort the process while the
    interpreter shuts down ("terminate called without an active exception"); the launcher then reports a failure.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
