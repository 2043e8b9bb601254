"""Lineage files round-trip, and a fingerprint distinguishes bases."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dlm_trl import tiny
from dlm_trl.models import lineage
from dlm_trl.models.weights import find_weights
from dlm_trl.notes import DlmError

TRAINED = {"step": "train", "base": "tiny", "rows": {"human": 3}, "adapter": {"type": "lora", "rank": 4}, "seed": 1}
TRAINED |= dict.fromkeys(("base_fingerprint", "document", "task", "quantization"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path(), tmp_path / "base"))


def test_steps_round_trip_and_a_folder_without_a_file_has_none(tmp_path: Path) -> None:
    assert lineage.read(tmp_path) == []
    steps = [TRAINED | {"document": "é"}, {"step": "distil"}, {"step": "distil", "n": 2}]
    lineage.write(tmp_path, steps)
    assert lineage.read(tmp_path) == steps
    assert lineage.last(steps, "distil") == {"step": "distil", "n": 2}
    assert lineage.last(steps, "awq") is None


@pytest.mark.parametrize("name", sorted(TRAINED))
@pytest.mark.parametrize("value", [None, 5.5, ["x"], {"tensors": []}, {}, "\ud800"])
def test_a_step_with_missing_or_wrong_fields_is_refused(tmp_path: Path, name: str, value: object) -> None:
    lacking = {key: value for key, value in TRAINED.items() if key != name}
    for step in (lacking, TRAINED | {name: value}):
        if step == TRAINED or (name == "rows" and isinstance(value, dict)):
            continue
        (tmp_path / lineage.FILE).write_text(json.dumps({"steps": [step]}))
        with pytest.raises(DlmError, match="Malformed lineage file"):
            lineage.read(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "", "[]", "{}", '{"steps": 3}', '{"steps": [{"no": 1}]}', '["x"]'])
def test_a_malformed_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / lineage.FILE).write_text(text)
    with pytest.raises(DlmError, match=r"lineage\.json.*Malformed lineage file"):
        lineage.read(tmp_path)


def test_a_copy_has_the_same_fingerprint(base: Path) -> None:
    original = lineage.fingerprint(find_weights("tiny"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9", "use_cache": False}))
    assert lineage.fingerprint(find_weights(str(base))) == original
    assert 4 <= len(original["tensors"]) <= lineage.TENSORS


def test_other_weights_or_configurations_have_another_fingerprint(base: Path) -> None:
    original = lineage.fingerprint(find_weights(str(base)))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    changed = lineage.fingerprint(find_weights(str(base)))
    assert changed["config"] != original["config"]
    assert changed["tensors"] == original["tensors"]
    tensors = load_file(base / "model.safetensors")
    for name in original["tensors"]:
        tensors[name][0, 0] += 1e-3
    save_file(tensors, base / "model.safetensors")
    changed = lineage.fingerprint(find_weights(str(base)))
    assert all(changed["tensors"][name] != value for name, value in original["tensors"].items())
