"""Run a recipe in several processes of this machine: `launch(recipe, launch_file, 4, arguments)`.

accelerate's launcher runs in this process. Started as a program, it ends a run that fails with a traceback of its own,
after the message of the process that failed.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dlm_trl.notes.errors import ProcessError

STOP_SECONDS = "120"  # from the first signal to the kill: time to end a step and write a checkpoint


def launch(recipe: Path, launch_file: Path, processes: int, arguments: Sequence[str]) -> None:
    """Returns once all processes have ended without an error.

    A free port is used, so two runs can share a machine. Raises SystemExit, with the exit code of a process that showed
    its own error or was stopped, and DlmError (ProcessError) if one was killed.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", STOP_SECONDS)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--config_file", str(launch_file), "--num_processes", str(processes), "--main_process_port", "0"]
    try:
        launch_command(launch_command_parser().parse_args([*options, str(recipe), *arguments]))
    except ChildFailedError as error:
        killed = {rank: failure for rank, failure in error.failures.items() if failure.exitcode < 0}
        if not killed:
            sys.exit(error.get_first_failure()[1].exitcode)
        rank, failure = killed.popitem()
        memory = "If nobody did that, memory ran out: see `dmesg`. " if failure.exitcode == -signal.SIGKILL else ""
        raise ProcessError(
            f"Process {rank} of {processes} was killed by {failure.signal_name()}, and the others were stopped.",
            hint=f"{memory}To resume: resume_from_checkpoint=true overwrite=true.",
        ) from None
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
