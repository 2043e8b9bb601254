"""All numbers of a base and of an adapter, on the same questions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dlm_trl import tiny
from dlm_trl.evaluation.suite import evaluate_model, measure, parse_condition, question_sets
from dlm_trl.models.load import load_base, load_for_inference, load_tokenizer
from dlm_trl.notes import DlmError


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the embedded base with random weights in all modules."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(load_base("tiny"), config)
    model.save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return folder


def test_base_and_adapter_get_the_same_questions(adapter: Path) -> None:
    (base, tokenizer), (adapted, _) = load_for_inference("tiny"), load_for_inference(str(adapter))
    conditions = ("4:upper", "5-6:digits")
    sets = question_sets(base, tokenizer, conditions, count=4, seed=1)
    assert sets == question_sets(adapted, tokenizer, conditions, count=4, seed=1)
    assert list(sets) == ["4:upper", "5-6:digits"]
    assert {len(q.options) for q in sets["4:upper"]} == {4}
    assert {q.labels[0] for q in sets["5-6:digits"]} == {"1"}

    before, after = measure(base, tokenizer, sets), measure(adapted, tokenizer, sets)
    assert after.perplexity > before.perplexity
    numbers = before.numbers()
    assert numbers["mcsb/4:upper/chance"] == 0.25
    assert numbers["cloze/accuracy"] == before.cloze.accuracy
    assert measure(base, tokenizer, sets, with_cloze=False).numbers() == {
        name: value for name, value in numbers.items() if name != "cloze/accuracy"
    }
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in numbers.values())


def test_glosses_are_a_separate_question_set() -> None:
    known = json.loads((tiny.path() / "words.json").read_text(encoding="utf-8"))
    glosses = {word: f"known for {len(word)} letters" for word in list(known)[:12]}
    leaking = list(known)[12]
    sets = question_sets(
        *load_for_inference("tiny"),
        ("5:upper",),
        40,
        split="train",
        held_out=0.0,
        glosses=glosses | {leaking: f"a {leaking}"},
    )
    assert len(sets["glosses"]) == 40
    assert all(q.description == glosses[q.word] for q in sets["glosses"])
    # Descriptions that contain their word are dropped.
    assert {option for q in sets["glosses"] for option in q.options} == set(glosses)


def test_evaluate_model_opens_by_name() -> None:
    found = evaluate_model("tiny", conditions=("5:upper",), count=6)
    assert found.mcsb["5:upper"].chance == pytest.approx(0.2)
    assert found.cloze.chance == pytest.approx(0.2)
    with pytest.raises(DlmError, match="Unknown base model"):
        evaluate_model("no-such-base")
    with pytest.raises(DlmError, match="don't fit the labels"):
        evaluate_model("tiny", conditions=("5:ABC",))


@pytest.mark.parametrize(
    ("text", "read"), [("5:upper", (5, "upper")), ("6-9:digits", ((6, 9), "digits")), ("5:VWXYZ", (5, "VWXYZ"))]
)
def test_conditions(text: str, read: tuple) -> None:
    assert parse_condition(text) == read


@pytest.mark.parametrize("text", ["5", ":upper", "5:", "five:upper", "5-:upper", "5:up per", ""])
def test_invalid_conditions(text: str) -> None:
    with pytest.raises(ValueError, match="doesn't have the form CHOICES:LABELS"):
        parse_condition(text)
