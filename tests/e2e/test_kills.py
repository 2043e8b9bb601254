"""A few kills of real runs at random moments; `make kills` makes more."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_killed_and_restarted_runs_equal_an_uninterrupted_one() -> None:
    command = [sys.executable, "-m", "tests.e2e.kills", "--times", "2", "--settings", "--measure false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "| all | | 2 | 2 | 2 |" in done.stdout
