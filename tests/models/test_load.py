"""Loading bases and adapters, quantised or not; failures are one-line errors."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.load import load_adapted, load_base, load_config, load_for_inference, load_tokenizer
from dlm_trl.models.precision import inference_dtype
from dlm_trl.notes import DlmError

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_trains_on_this_machine(random_base: Path, quantization: str) -> None:
    whole = load_base(str(random_base))
    model = load_base(str(random_base), dtype="float32", quantization=quantization)
    assert model.get_memory_footprint() < whole.get_memory_footprint()
    device = model.device
    whole = whole.to(device)
    near = torch.nn.functional.cosine_similarity(
        model(TOKENS.to(device)).logits.flatten().float(), whole(TOKENS.to(device)).logits.flatten(), dim=0
    )
    assert near > 0.8  # NF4 on these weights gives 0.88; unrelated weights give about 0
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    model(TOKENS.to(device), labels=TOKENS.to(device)).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_an_adapter_is_loaded_on_the_base_it_records(
    random_base: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    ).eval()
    adapted.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, its_tokenizer = load_adapted(tmp_path)
    assert torch.equal(loaded(TOKENS).logits, adapted(TOKENS).logits)
    assert its_tokenizer.chat_template == tokenizer.chat_template


def test_a_model_for_inference_is_shared_while_in_use(random_base: Path, tmp_path: Path) -> None:
    get_peft_model(load_base(str(random_base)), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    load_tokenizer(str(random_base)).save_pretrained(tmp_path)
    base, tokenizer = load_for_inference(str(random_base))
    adapted, _ = load_for_inference(str(tmp_path))
    assert load_for_inference(str(random_base))[0] is base
    assert load_for_inference(tmp_path)[0] is adapted is not base
    assert {model.dtype for model in (base, adapted)} == {inference_dtype(load_config(str(random_base)))}
    assert not base.training and not adapted.training
    assert tokenizer.chat_template == load_tokenizer(str(random_base)).chat_template
    with pytest.raises(DlmError, match=r"adapter_config\.json is missing"):
        load_for_inference(tmp_path / "nothing")


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DlmError, match=r"adapter_config\.json is missing"):
        load_adapted(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_model.safetensors", None, r"adapter_model\.safetensors is missing"),
        ("adapter_model.safetensors", b"half", "header"),
        ("adapter_config.json", b"{", "property name"),
        ("adapter_config.json", b"[]", "list"),
        ("adapter_config.json", b'{"peft_type": "LORA", "base_model_name_or_path": null}', "None"),
        ("tokenizer.json", None, "tokenizer"),
    ],
)
def test_an_incomplete_adapter_is_reported_with_its_folder(
    random_base: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(load_base(str(random_base)), config).save_pretrained(tmp_path)
    load_tokenizer(str(random_base)).save_pretrained(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DlmError, match=message) as caught:
        load_adapted(tmp_path)
    assert (caught.value.kind, caught.value.path) == ("AdapterError", tmp_path)
    assert "\n" not in str(caught.value)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["UNPICKLED"],)


def test_pickles_are_never_loaded(random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPICKLED", str(tmp_path / "unpickled"))
    base = shutil.copytree(random_base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    adapter = tmp_path / "adapter"
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(load_base(str(random_base)), config).save_pretrained(adapter)
    load_tokenizer(str(random_base)).save_pretrained(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(pickle.dumps(Code()))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Code()))
    for kind, load, folder in (("BaseModelError", load_base, base), ("AdapterError", load_adapted, adapter)):
        with pytest.raises(
            DlmError, match=r"\.bin files are not supported, because they are pickles.*save_pre"
        ) as caught:
            load(str(folder))
        assert (caught.value.kind, caught.value.path) == (kind, folder)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "unpickled").exists()


def test_an_adapter_of_another_size_is_reported(random_base: Path, tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(load_base(str(random_base)), config).save_pretrained(tmp_path)
    load_tokenizer(str(random_base)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"r": 3}))
    with pytest.raises(DlmError, match="Can't load"):
        load_adapted(tmp_path)


def test_a_missing_base_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    for name in ("hf:dlm-trl/no-such-model", str(tmp_path)):
        for load in (load_config, load_tokenizer, load_base):
            with pytest.raises(DlmError) as caught:
                load(name)
            assert caught.value.kind == "BaseModelError"
            assert "\n" not in str(caught.value)


def test_a_chat_template_comes_from_a_file_or_a_tokenizer(random_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0]['content'] }}")
    assert load_tokenizer(str(random_base), str(file)).chat_template == file.read_text()
    own = load_tokenizer(str(random_base)).chat_template
    assert load_tokenizer(str(random_base), str(random_base)).chat_template == own
    with pytest.raises(DlmError, match="no chat template"):
        load_tokenizer(str(random_base), str(tmp_path / "missing.jinja"))


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "Install"),
        ({"intermediate_size": 24}, "belong together"),
    ],
)
def test_a_base_that_cannot_be_loaded_comes_with_a_hint(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], hint: str
) -> None:
    monkeypatch.setattr("transformers.quantizers.quantizer_gptq.is_optimum_available", lambda: False)
    base = Path(shutil.copytree(random_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(DlmError, match=hint) as caught:
        load_base(str(base))
    assert caught.value.kind == "BaseModelError"


def test_a_truncated_weights_file_is_reported(random_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(random_base, tmp_path / "base"))
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DlmError, match="Can't load") as caught:
        load_base(str(base))
    assert caught.value.kind == "BaseModelError"
