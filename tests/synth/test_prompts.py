"""What the teacher is asked."""

from __future__ import annotations

import pytest
from jinja2.environment import Environment

from dlm_trl.synth.prompts import TEMPLATES, pair_messages


@pytest.mark.parametrize("strategy", sorted(TEMPLATES))
def test_prose_goes_in_untouched_whatever_it_holds(strategy):
    prose = "Curly {{ braces }} and {% tags %} & <b>\n\nTwo paragraphs."
    (message,) = pair_messages(f"\n{prose}\n", 3, strategy)
    assert message["role"] == "user"
    assert message["content"].startswith("Write 3 question and answer pairs ")
    assert message["content"].endswith(f"\n\nText:\n{prose}")


def test_strategies_ask_for_different_things():
    assert pair_messages("p", 1, "extraction") != pair_messages("p", 1, "expansion")


def test_a_prompt_is_compiled_once_for_a_plan(monkeypatch):
    compiled = []
    plain = Environment.compile
    monkeypatch.setattr(Environment, "compile", lambda *a, **k: compiled.append(1) or plain(*a, **k))
    for n in range(1, 50):
        pair_messages("Dew is water.", n)
    assert len(compiled) <= 1
