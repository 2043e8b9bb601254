"""Isolate tests from the machine's keys, server addresses and adapters."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    for owner in ("OPENAI", "ANTHROPIC", "VLLM"):
        for what in ("API_KEY", "BASE_URL", "AUTH_TOKEN"):
            monkeypatch.delenv(f"{owner}_{what}", raising=False)
