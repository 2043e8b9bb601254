"""The process that a recipe runs in, which may be one of several.

prepare_deepspeed()                    # before TRL is imported
run_program(main)                      # main(argv) with its errors and its exit code

with explained_errors():               # in main: memory that is used up, a process that has ended
    train(argv)
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dlm_trl.models.ranks import is_lost_process, world_size
from dlm_trl.notes.errors import DlmError, RunError
from dlm_trl.notes.terminal import logging_to_stderr, say

if TYPE_CHECKING:
    from accelerate import Accelerator

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
    except DlmError as error:
        code = _failed(str(error))
    except Exception:
        if world_size() == 1:
            raise
        code = _failed(traceback.format_exc())
    exit_worker(code)
    sys.exit(code)


@contextmanager
def explained_errors() -> Iterator[None]:
    """Raise a DlmError (RunError) if the memory is used up or the connection to another process is lost."""
    from dlm_trl.models.batching import is_out_of_memory

    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            reason = " ".join([*str(error).splitlines()[:1], *getattr(error, "__notes__", ())])
            raise RunError(f"Out of memory: {reason}", LESS_MEMORY) from error
        if is_lost_process(error):
            reason = str(error).partition(". ")[0]
            raise RunError(f"Another process of the run has ended ({reason}).", "Its own error says why.") from error
        raise


def processes(accelerator: "Accelerator") -> str:
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
