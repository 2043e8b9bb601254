"""Tests never touch the machine's own store."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def dlm_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store for this test."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
