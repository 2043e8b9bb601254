"""Run a module in a fresh process, like `python -m`: `run_module("dlm_trl.export.ship", "runs/notes", "runs/notes")`.

What a library patches there stays there, and what is loaded there comes from the disk.
"""

import os
import sys
from collections import deque
from io import TextIOWrapper
from subprocess import DEVNULL, PIPE, Popen

from dlm_trl.notes.errors import ExportError

LAST_LINES = 20  # of what a process said before it failed

# What tells a process that it is one of several, or how they share a model. A child of the first one is alone.
_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR")
_SHARED = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED", "ACCELERATE_USE_FSDP", "FSDP_", "TORCHELASTIC_")


def run_module(module: str, *arguments: str, show: bool = False) -> None:
    """Run the module to its end.

    show: what it writes is seen while it goes on; else it is kept back, for a library's warnings about its
    own loading help nobody. Raises DlmError (ExportError) when it fails: with its last line where that is an error of
    ours, with its last lines where it was an exception or a signal.
    """
    command = [sys.executable, "-m", module, *arguments]
    said: deque[str] = deque(maxlen=LAST_LINES)
    raised = False  # by the first line of a traceback, which may be more lines ago than are kept
    with Popen(command, env=single_process_env(), stdout=None if show else DEVNULL, stderr=PIPE) as process:
        assert process.stderr is not None
        try:
            # A progress bar ends its lines with \r; newline="" takes that for an end, too, and keeps it.
            for line in TextIOWrapper(process.stderr, errors="replace", newline=""):
                if show:
                    sys.stderr.write(line)
                    sys.stderr.flush()
                raised = raised or line.startswith("Traceback")
                if line.strip():
                    said.append(line.rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        return
    if process.returncode == 1 and said and not raised:
        raise ExportError(said[-1])
    last = "\n".join(said)
    raise ExportError(f"{module} ended with code {process.returncode}:\n{last}")


def single_process_env() -> dict[str, str]:
    """The environment of this process without what makes it one of several."""
    return {
        name: value for name, value in os.environ.items() if name not in _DISTRIBUTED and not name.startswith(_SHARED)
    }
