"""The inputs for both models of a step, from the lineage of the run; and the header of the model card."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.export.model_card import model_card
from dlm_trl.export.model_inputs import build_inputs, recorded_eval_spec
from dlm_trl.export.ship import check
from dlm_trl.models.lineage import file_hash
from dlm_trl.models.load import load_tokenizer
from dlm_trl.notes import DlmError

NOTES = Path(__file__).parents[2] / "recipes" / "notes.dlm"


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    return Path(shutil.copy(NOTES, tmp_path / "notes.dlm"))


def awq_step(file: Path) -> dict[str, object]:
    record = {"file": str(file), "sha256": file_hash(file), "samples": 8, "seed": 0, "length": 128}
    return {"step": "awq", "calibration": record}


def test_held_out_texts_come_from_the_unchanged_file_even_if_it_moved(calibration: Path, tmp_path: Path) -> None:
    tokenizer, steps = load_tokenizer("tiny"), [awq_step(calibration)]
    found = build_inputs(EvaluationSpec(), steps, tokenizer, 2).scored
    moved = calibration.rename(tmp_path / "moved.dlm")
    assert build_inputs(EvaluationSpec(), steps, tokenizer, 2, moved).scored == found
    moved.write_text(moved.read_text() + "\n::prose::\nBread is baked.\n")
    for notes in (moved, None):
        with pytest.raises(DlmError, match=r"are gone, or have changed.*--notes"):
            build_inputs(EvaluationSpec(), steps, tokenizer, 2, notes)


def test_an_invalid_eval_spec_is_a_lineage_error() -> None:
    for spec in ({"notes": 5}, {"conditions": 3}, {"colour": "red"}):
        with pytest.raises(DlmError, match="its eval_spec is invalid"):
            recorded_eval_spec([{"step": "train", "eval_spec": spec}], None)


def test_folders_next_to_the_current_one_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    check("tiny", Path(), "merged")
    (tmp_path / "run-merged").write_text("a file")
    with pytest.raises(DlmError, match=r"run-merged.*it is a file"):
        check("tiny", Path(), "merged")


@pytest.mark.parametrize(
    ("base", "published", "license"),
    [
        ("/data/my: models/b", None, None),
        ("tiny", None, "apache-2.0"),
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B", "apache-2.0"),
        ("{x}", "{x}", None),
    ],
)
def test_the_header_of_a_card_names_only_bases_on_the_hub(
    tmp_path: Path, base: str, published: str | None, license: str | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    adapter = {"adapter_model.safetensors": "0" * 64}
    card = model_card(tmp_path, [{"step": "merge", "base": base, "dtype": "float32", "adapter": adapter}], "runs/m")
    header = yaml.safe_load(card.split("---\n")[1])
    assert header.pop("base_model", None) == published
    assert header.pop("license", None) == license
    assert ("**Licence: fill it in.**" in card) == (license is None)
    assert header == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dlm", "trl", "sft"],
    }
