"""Names of bases: what is taken, what is refused in one line, and what an adapter writes down."""

from pathlib import Path

import pytest

from dlm_trl.models.registry import HUB_IDS, recorded_name, resolve
from dlm_trl.notes import DlmError


def test_every_way_to_name_a_base(random_base: Path) -> None:
    assert resolve("smollm2-135m") == HUB_IDS["smollm2-135m"]
    assert resolve("hf:someone/model") == "someone/model"
    assert resolve(str(random_base)) == str(random_base)


def test_the_embedded_base_is_recorded_by_its_key() -> None:
    assert recorded_name("tiny") == "tiny"
    assert recorded_name("qwen3-4b") == "Qwen/Qwen3-4B"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smollm2-135n", "smollm2-135m"),
        ("someone/model", "hf:someone/model"),
        ("qwen2-vl-2b-instruct", "Choose another"),
        ("nothing at all", "hf:org/name"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_way_out(name: str, hint: str) -> None:
    with pytest.raises(DlmError) as caught:
        resolve(name)
    assert caught.value.kind == "BaseModelError"
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DlmError, match=r"config\.json is missing"):
        resolve(str(tmp_path))
