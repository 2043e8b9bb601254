"""The process that a recipe runs in, which may be one of several.

    prepare_deepspeed()            # before TRL is imported
    run_program(main)              # main(argv) with its errors and its exit code

In main, `meet()` lets the processes wait for each other before torch connects them, and `explained_errors()` explains
memory that is used up and a process that has ended.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from dlm_trl.models.ranks import process_errors, world_size
from dlm_trl.notes.errors import DlmError, ProcessError
from dlm_trl.notes.terminal import logging_to_stderr, say

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import TrainingArguments

MEETING = timedelta(minutes=10)  # from the first process that has read its files to the last
TELLING = timedelta(seconds=10)
LESS_MEMORY = (
    "Lower per_device_train_batch_size and raise gradient_accumulation_steps as much, lower max_length, set "
    "gradient_checkpointing: true or adapter: qlora, or shard the base with deepspeed_zero3.yaml. Then rerun with "
    "--resume_from_checkpoint true --overwrite true."
)


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


def run_program(main: Callable[[list[str]], None]) -> None:
    """Run a recipe with the command line's arguments, show its error, and exit.

    With several processes, each line of an error begins with the rank. A process with an error exits immediately, so
    that the others don't wait for it.
    """
    code: int | str | None = 0
    try:
        with logging_to_stderr():
            main(sys.argv[1:])
    except SystemExit as stopped:
        code = stopped.code
    except ProcessError as error:
        code = _failed(str(error))
    except DlmError as error:
        code = _failed(str(error))
        with suppress(ProcessError):
            meet(str(error))
    except Exception as error:
        if world_size() == 1:
            raise
        code = _failed(traceback.format_exc())
        with suppress(ProcessError):
            meet(str(error))
    exit_worker(code)
    sys.exit(code)


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


@contextmanager
def explained_errors() -> Iterator[None]:
    """Raise a DlmError if memory is used up (OutOfMemoryError) or another process has ended (ProcessError)."""
    from dlm_trl.models.batching import memory_errors

    with memory_errors("in the run", LESS_MEMORY), process_errors("Its own error says why."):
        yield


def processes(accelerator: Accelerator) -> str:
    """How many processes a run has and what connects them, such as `2 (DEEPSPEED, ZeRO-3)`."""
    kind = str(accelerator.distributed_type.value)
    plugin = accelerator.state.deepspeed_plugin if kind == "DEEPSPEED" else None
    return f"{accelerator.num_processes} ({kind}{f', ZeRO-{plugin.zero_stage}' if plugin else ''})"


def exit_worker(code: int | str | None = 0) -> None:
    """Exit immediately with this code if this is one of several processes; a single process goes on.

    The threads of a process group live as long as a model that holds it, and can abort the process while the
    interpreter shuts down ("terminate called without an active exception"); the launcher then reports a failure.
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _failed(text: str) -> int:
    """Show an error; returns the exit code."""
    rank = f"[rank {os.environ.get('RANK', '0')}] " if world_size() > 1 else ""
    say("\n".join(f"{rank}{line}" for line in text.splitlines()), err=True)
    return 1
