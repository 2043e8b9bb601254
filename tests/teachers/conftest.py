"""No key or address of the machine's own reaches a test."""

import pytest


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in ("OPENAI", "ANTHROPIC", "VLLM"):
        for what in ("API_KEY", "BASE_URL", "AUTH_TOKEN"):
            monkeypatch.delenv(f"{owner}_{what}", raising=False)
