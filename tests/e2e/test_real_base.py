"""SmolLM2-135M from its package, without a hub: trained for two steps, merged, and named for what it is."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from dlm_trl.export.merge import merge
from dlm_trl.models import lineage
from dlm_trl.models.load import load_adapted, load_base
from dlm_trl.models.precision import cpu_has_bfloat16
from dlm_trl.models.registry import PACKAGES

ROOT = Path(__file__).parents[2]


def test_a_real_base_is_trained_and_merged_without_a_hub(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notes = tmp_path / "bread.dlm"
    text = (ROOT / "recipes" / "notes.dlm").read_text(encoding="utf-8")
    notes.write_text("\n::prose::\n".join(text.split("\n::prose::\n")[:2]), encoding="utf-8")
    out = recipe("--max_steps", 2, "--measure", "false", notes=notes)

    step = lineage.last(lineage.read(out), "train")
    package = PACKAGES["smollm2-135m"]
    assert step["base"] == f"package:{package.name}"
    assert step["base_source"] == "dequantised from Q4_1"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert "dequantised from Q4_1" in card

    folder = merge(out, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    adapted, tokenizer = load_adapted(out, "float32")
    ids = tokenizer("A starter is a mix of flour and water.", return_tensors="pt")
    with torch.no_grad():
        expected, found = (model(**ids).logits for model in (adapted, merged))
    assert (expected - found).abs().mean() < 0.03 * expected.std()  # in 16 bits
    assert torch.equal(expected.argmax(-1), found.argmax(-1))
    assert "dequantised from Q4_1" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_real_base_is_asked_in_bfloat16_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    expected = torch.bfloat16 if cpu_has_bfloat16() or torch.cuda.is_available() else torch.float32
    assert load_base("smollm2-135m", "inference").dtype is expected
