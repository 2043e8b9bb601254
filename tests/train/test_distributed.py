"""Errors of one of several processes: what they say, and that the process exits with a code that the launcher sees."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlm_trl.notes.errors import RunError
from dlm_trl.train.distributed import explained_errors

PROGRAM = """
from dlm_trl.train.distributed import run_program

def main(argv):
    raise {error}

run_program(main)
"""


@explained_errors()
def fail(error: Exception) -> None:
    raise error


def test_memory_that_is_used_up_and_a_lost_process_are_explained() -> None:
    used_up = torch.OutOfMemoryError("CUDA out of memory.\nMore.")
    used_up.add_note("A note.")
    with pytest.raises(RunError, match=r"^Out of memory: CUDA out of memory\. A note\. Lower per_device.*--resume"):
        fail(used_up)
    lost = RuntimeError("[gloo/pair.cc] Closed by peer. This is typical.")
    with pytest.raises(RunError, match=r"^Another process of the run has ended \(\[gloo/pair\.cc\] Closed by peer\)\."):
        fail(lost)
    with pytest.raises(RuntimeError, match=r"^shapes$"):
        fail(RuntimeError("shapes"))


@pytest.mark.parametrize(
    ("error", "last"),
    [("SystemExit(143)", None), ("ZeroDivisionError('of a task')", "[rank 1] ZeroDivisionError: of a task")],
)
def test_one_of_several_processes_exits_with_its_code(error: str, last: str | None) -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    program = PROGRAM.format(error=error)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if last else 143)
    assert done.stderr.splitlines()[-1:] == ([last] if last else [])
    assert all(line.startswith("[rank 1] ") for line in done.stderr.splitlines())
