"""The examples: their documents have no findings, their code does what its pairs say, the notebook runs."""

import importlib
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dlm_trl.notes.check import check

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.dlm")), ids=lambda path: path.stem)
def test_the_documents_have_no_findings(path: Path) -> None:
    assert [finding for finding in check(path) if not finding.is_hint] == []


def test_the_code_base_does_what_its_pairs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "codebase"))
    log, predict = (importlib.import_module(f"tides.{name}") for name in ("log", "predict"))
    heights = [300, 310, 312, 309, 250, 100, 90, 110, 240, 305, 311, 308]
    start = datetime.fromisoformat("2026-03-01T00:00Z")
    lines = [f"{start + timedelta(hours=at):%Y-%m-%dT%H:%MZ} {height}" for at, height in enumerate(heights)]
    (tmp_path / "gauge.log").write_text("\n".join(lines))
    readings = log.read_log(tmp_path / "gauge.log")
    assert [height for _, height in readings] == heights
    assert predict.next_high_water(readings) == start + timedelta(hours=10) + timedelta(hours=12, minutes=25)
    assert predict.next_high_water(readings[:5]) is None
    assert [h for _, h in log.without_spikes([(start, h) for h in (300, 302, 343, 303, 301)])] == [300, 302, 303, 301]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The embedded base and one step, for speed: the outputs in the file are from SmolLM2-135M.
    for name in ("manual", "notes_to_model.ipynb"):
        (tmp_path / name).symlink_to(EXAMPLES / name)
    monkeypatch.setenv("BASE", "tiny")
    monkeypatch.setenv("STEPS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), *sys.path]))
    notebook = nbformat.read(tmp_path / "notes_to_model.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=where).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Applied" in printed and "F1 after" in printed
    assert "Removed" in printed, "what was applied is taken out again"
    assert (tmp_path / "runs" / "notebook" / "run" / "report.png").is_file()
