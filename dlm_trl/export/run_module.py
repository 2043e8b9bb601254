"""Run a module in a fresh process, like `python -m`: `run_module("dlm_trl.export.ship", "runs/notes", "runs/notes")`.

What a library patches stays in that process, and everything it loads comes from disk.
"""

import os
import sys
from collections import deque
from collections.abc import Iterable
from io import TextIOWrapper
from signal import SIGKILL
from subprocess import DEVNULL, PIPE, Popen

from dlm_trl.notes.errors import ExportError

LAST_LINES = 20  # of a failed process's stderr, to show in the error

# Variables that make a process one of several, or share a model between them. The new process runs alone.
_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR")
_SHARED = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED", "ACCELERATE_USE_FSDP", "FSDP_", "TORCHELASTIC_")


def run_module(module: str, *arguments: str, show: bool = False) -> None:
    """Run the module and wait for it.

    show: pass its output through; by default it's hidden, since the warnings of libraries about their own loading help
    nobody. After Ctrl+C it gets SIGTERM and may end by itself, as a training run does with a checkpoint; a second
    Ctrl+C kills it. Raises DlmError (ExportError) if it fails: with its last line if the module exited with an error
    message, with its last lines after an exception.
    """
    command = [sys.executable, "-m", module, *arguments]
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    raised = False  # the first line of a long traceback isn't among the last lines
    with Popen(command, env=single_process_env(), stdout=None if show else DEVNULL, stderr=PIPE) as process:
        assert process.stderr is not None
        # Progress bars end their lines with \r. newline="" splits there too, and keeps the \r.
        stderr = TextIOWrapper(process.stderr, errors="replace", newline="")

        def read() -> None:
            nonlocal raised
            for line in stderr:
                if show:
                    sys.stderr.write(line)
                    sys.stderr.flush()
                raised = raised or line.startswith("Traceback")
                if line.strip():
                    last_lines.append(line.rstrip())

        try:
            read()
        except BaseException:
            try:
                process.terminate()
                read()
            finally:
                process.kill()
            raise
    if process.returncode == 0:
        return
    if process.returncode == 1 and last_lines and not raised:
        raise ExportError(last_lines[-1])
    raise failure(module, process.returncode, last_lines)


def failure(module: str, code: int, last_lines: Iterable[str]) -> ExportError:
    """The error for a process that raised or was killed; code is negative then."""
    if code == -SIGKILL:
        return ExportError(f"{module} was killed.", "If nobody did that, memory ran out.")
    output = "\n".join(last_lines)
    return ExportError(f"{module} exited with code {code}:\n{output}")


def single_process_env() -> dict[str, str]:
    """This process's environment without the variables of a distributed launch."""
    return {
        name: value for name, value in os.environ.items() if name not in _DISTRIBUTED and not name.startswith(_SHARED)
    }
