"""A module in a fresh process: its errors are passed on, and it isn't part of a distributed run."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dlm_trl.export.run_module import run_module, single_process_env
from dlm_trl.notes import DlmError

DEEP = "def f(n, g): g(n - 1, f if n % 2 else g2)\ndef g2(n, g): f(n - 1, f) if n else 1 / 0\nf(40, g2)"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; print('noise', file=sys.stderr); sys.exit('notes.dlm:3: no')", "^notes.dlm:3: no$"),
        ("raise ValueError('short')", r"(?s)^step exited with code 1:.*Traceback.*ValueError: short$"),
        # More lines than are kept, so the first line of the traceback is dropped.
        (
            "def f(n, g): g(n - 1, f if n % 2 else g2)\ndef g2(n, g): f(n - 1, f) if n else 1 / 0\nf(40, g2)",
            "^step exited",
        ),
        ("import os; os.kill(os.getpid(), 9)", "^step was killed. If nobody did that, memory ran out"),
    ],
    ids=["DlmError", "exception", "long traceback", "killed"],
)
def test_errors_and_exceptions_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    (tmp_path / "step.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DlmError, match=message) as caught:
        run_module("step")
    assert caught.value.kind == "ExportError"


def test_after_ctrl_c_the_process_may_end_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = "signal.signal(15, lambda *_: sys.exit('saved'))"
    (tmp_path / "step.py").write_text(
        f"import signal, sys, time\n{end}\nprint('ready', file=sys.stderr)\ntime.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = []

    def write(line: str) -> None:
        lines.append(line)
        if line == "ready\n":
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=write, flush=lambda: None))
    with pytest.raises(KeyboardInterrupt):
        run_module("step", show=True)
    assert lines == ["ready\n", "saved\n"]


def test_the_new_process_is_not_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "1")
    assert {"RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_DEEPSPEED"}.isdisjoint(single_process_env())
    assert single_process_env()["ACCELERATE_USE_CPU"] == "1"
