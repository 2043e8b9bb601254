"""An adapter that changes what its base says, with the lineage and the document that a run leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dlm_trl.models import lineage

NOTES = """---
dlm_id: 01K9BREADW1THS0VRD0VGH2T3R
dlm_version: 15
base_model: tiny
system_prompt: You answer in one short sentence.
---
Kneading is pressing and folding a dough until it is smooth.

A starter is a mix of flour and water in which wild yeast and bacteria live.
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.dlm"
    path.write_text(NOTES, encoding="utf-8")
    return path


@pytest.fixture
def trained(tmp_path: Path, notes: Path) -> Callable[[str], Path]:
    """trained(base): the folder of an adapter with random weights on this base, as a run on the notes leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from dlm_trl.models.load import load_base, load_tokenizer

    def make(base: str) -> Path:
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
        folder = tmp_path / "run"
        get_peft_model(load_base(base), config).save_pretrained(folder)
        load_tokenizer(base).save_pretrained(folder)
        step = {"step": "train", "base": base, "base_fingerprint": None, "document": "01K9BREADW1THS0VRD0VGH2T3R"}
        step |= {"rows": {"human": 1}, "task": None, "adapter": {"type": "lora", "rank": 4}, "quantization": None}
        spec = {"notes": str(notes), "validation_fraction": 0.1, "split_method": "source_group"}
        lineage.write(folder, [step | {"seed": 1, "eval_spec": spec}])
        return folder

    return make
