"""The prompts sent to a teacher."""

from __future__ import annotations

import pytest
from jinja2.environment import Environment

from dlm_trl.synth.prompts import TEMPLATES, pair_messages


@pytest.mark.parametrize("strategy", sorted(TEMPLATES))
def test_prose_is_inserted_unchanged(strategy):
    prose = "Curly {{ braces }} and {% tags %} & <b>\n\nTwo paragraphs."
    (message,) = pair_messages(f"\n{prose}\n", 3, strategy)
    assert message["role"] == "user"
    assert message["content"].startswith("Write 3 question and answer pairs ")
    assert message["content"].endswith(f"\n\nText:\n{prose}")


def test_strategies_have_different_prompts():
    assert pair_messages("p", 1, "extraction") != pair_messages("p", 1, "expansion")


def test_a_prompt_is_compiled_once_per_plan(monkeypatch):
    compiled = []
    plain = Environment.compile
    monkeypatch.setattr(Environment, "compile", lambda *a, **k: compiled.append(1) or plain(*a, **k))
    for n in range(1, 50):
        pair_messages("Dew is water.", n)
    assert len(compiled) <= 1
