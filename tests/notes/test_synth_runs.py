"""The record of synthesis runs: what was added is read, and a damaged line costs only itself."""

from pathlib import Path

import pytest

from dlm_trl.notes.synth_runs import SynthRun, add_run, read_runs, runs_path

RUN = SynthRun("2026-04-24T10:18:42Z", "hf:t", None, 20, 5, 1, 0, 30, {"question": 12}, 18, 900, 0.5, 4.0, "why")
ID = "01JTRX0000000000000000000A"


def test_runs_are_read_in_order_and_damaged_lines_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path))
    assert read_runs(ID) == []
    add_run(ID, RUN)
    with runs_path(ID).open("ab") as file:
        file.write(b'not json\n{"at": 3}\n[]\n{"at": "torn')
    later = SynthRun("2026-04-25T10:18:42Z", "hf:t", "hf:j", 1, 0, 0, 0, 0, {}, 0, 0, None, 0.1, None)
    add_run(ID, later)
    assert read_runs(ID) == [RUN, later]
    runs_path(ID).unlink()
    runs_path(ID).mkdir()
    assert read_runs(ID) == []
