"""The prompts sent to a teacher."""

from __future__ import annotations

import pytest
from jinja2.environment import Environment

from dlm_trl.asking.prompts import question_messages
from dlm_trl.synth.prompts import TEMPLATES, Strategy, pair_messages


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


@pytest.mark.parametrize("strategy", sorted(TEMPLATES))
@pytest.mark.parametrize(
    ("prose", "language"),
    [
        ("酵母产生气体，气体使面团膨胀。", "Chinese"),
        ("الخميرة تنتج الغاز، والغاز يرفع العجين.", "Arabic"),
        (
            "Der Teig geht in der Nacht. An der Luft wird er trocken, und im Ofen geht er auf. Das Salz macht ihn "
            "fester, und die Hefe arbeitet dann langsamer als ohne Salz.",
            "German",
        ),
        ("Elm burns slowly.", None),
        (
            "A starter is a mix of flour and water. It lasts for years. Salt slows the yeast down, so the dough rises.",
            None,
        ),
        ("The word 酵母 means yeast, and the word 面团 means dough.", None),
    ],
)
def test_the_language_of_the_prose_is_kept(prose: str, language: str | None, strategy: Strategy) -> None:
    (message,) = pair_messages(prose, 2, strategy)
    content = message["content"]
    assert content.count(" in ") - prose.count(" in ") == (2 if language else 0)
    if language:
        assert f"answer pairs in {language} " in content
        assert content.endswith(f"Write the questions and answers in {language}.")
        assert f"answers, in {language}." in question_messages(prose, language)[0]["content"]
    else:
        assert content.endswith(prose)
