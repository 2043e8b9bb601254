"""A step in a process of its own: what it says when it fails, and that it is no part of a distributed run."""

from pathlib import Path

import pytest

from dlm_trl.export.run_module import run_module, single_process_env
from dlm_trl.notes import DlmError

DEEP = "def f(n, g): g(n - 1, f if n % 2 else g2)\ndef g2(n, g): f(n - 1, f) if n else 1 / 0\nf(40, g2)"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; print('noise', file=sys.stderr); sys.exit('notes.dlm:3: no')", "^notes.dlm:3: no$"),
        ("raise ValueError('short')", r"(?s)^step exited with code 1:.*Traceback.*ValueError: short$"),
        # More lines than are kept, so that the traceback's first one is not among them.
        (
            "def f(n, g): g(n - 1, f if n % 2 else g2)\ndef g2(n, g): f(n - 1, f) if n else 1 / 0\nf(40, g2)",
            "^step exited",
        ),
        ("import os; os.kill(os.getpid(), 9)", "^step exited with code -9:"),
    ],
    ids=["ours", "exception", "long traceback", "killed"],
)
def test_a_failure_is_told_as_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    (tmp_path / "step.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DlmError, match=said) as caught:
        run_module("step")
    assert caught.value.kind == "ExportError"


def test_a_child_of_one_of_several_processes_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "1")
    assert {"RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_DEEPSPEED"}.isdisjoint(single_process_env())
    assert single_process_env()["ACCELERATE_USE_CPU"] == "1"
