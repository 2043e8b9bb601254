"""Adapters and bases that can't be merged are rejected in one line, by name, before anything is written."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from dlm_trl.export.adapter import MERGED, TRAINING_ONLY
from dlm_trl.export.merge import merge
from dlm_trl.export.ship import check
from dlm_trl.models import lineage
from dlm_trl.notes import DlmError

LORA = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"]}
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def adapter(make_base: Callable[..., Path], make_adapter: Callable[..., Path]) -> Path:
    return make_adapter(make_base("llama"), LoraConfig(**LORA))


def refused(adapter: Path, kind: str, match: str, **options: Any) -> DlmError:
    """The error of a merge, which must leave no files."""
    around = adapter.parent
    before = sorted(around.rglob("*"))
    with pytest.raises(DlmError, match=match) as caught:
        merge(adapter, around / "merged", **options)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    assert sorted(around.rglob("*")) == before
    return caught.value


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "LOHA"),
        ("task_type", "SEQ_CLS"),
        ("lora_bias", True),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "mica"),
        ("trainable_token_indices", [1, 2]),
        ("megatron_config", {"a": 1}),
        ("alora_invocation_tokens", [5]),
        ("layer_replication", [[0, 2]]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("velora_config", {"num_groups": 8}),
        ("monteclora_config", {"num_samples": 4}),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"beta": 1.0}),
        ("ensure_weight_tying", True),
        ("a_setting_of_tomorrow", 0.5),
    ],
)
def test_unsupported_settings_are_rejected_by_name(adapter: Path, setting: str, value: Any) -> None:
    change_json(adapter / "adapter_config.json", **{setting: value})
    error = refused(adapter, "AdapterError", "Merging doesn't support")
    assert setting in error.message


def test_every_setting_of_peft_is_supported_or_off(adapter: Path) -> None:
    """So that a new setting in a new PEFT gets looked at before it's rejected or ignored."""
    saved = json.loads((adapter / "adapter_config.json").read_text())
    known = MERGED | TRAINING_ONLY
    assert {name for name, value in saved.items() if name not in known and value} == set()
    assert known <= {field.name for config in (LoraConfig, AdaLoraConfig) for field in dataclasses.fields(config)}


def test_a_nan_is_reported_with_its_tensor(adapter: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[KEY][0, 0] = float("nan")

    change_tensors(adapter, spoil)
    assert KEY in refused(adapter, "AdapterError", "aren't finite").message


def test_an_overflow_of_float16_is_reported_with_its_tensor(adapter: Path) -> None:
    change_tensors(adapter, lambda tensors: tensors[KEY].mul_(1e6))
    error = refused(adapter, "MergeError", "model.layers.0.self_attn.q_proj.weight .*float16", dtype="float16")
    assert "bfloat16" in str(error)
    merge(adapter, adapter.parent / "merged", dtype="bfloat16")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.pop(KEY), "q_proj.lora_A.weight is missing"),
        (lambda tensors: tensors.update({KEY.replace("layers.0", "layers.7"): torch.ones(4, 64)}), "isn't in the base"),
        (lambda tensors: tensors.update({KEY: tensors[KEY][:2]}), r"is \(2, 64\), not \(4, 64\)"),
        (lambda tensors: tensors.update({"lm_head.weight": torch.zeros(7, 64)}), "vocabulary"),
    ],
    ids=["too few", "too many", "wrong rank", "vocabulary"],
)
def test_tensors_that_do_not_fit_are_reported(adapter: Path, change: Callable[..., object], match: str) -> None:
    change_tensors(adapter, change)
    refused(adapter, "AdapterError", match)


def test_another_base_is_noticed(
    adapter: Path, make_base: Callable[..., Path], training_step: Callable[[Path], dict[str, object]], tmp_path: Path
) -> None:
    refused(adapter, "AdapterError", "doesn't fit the base", base=str(make_base("gpt2")))
    refused(adapter, "AdapterError", "don't fit the base", base="tiny")
    base = make_base("llama")
    lineage.write(adapter, [training_step(base)])
    other = make_base("llama", torch.bfloat16)  # the same sizes
    refused(adapter, "BaseModelError", "isn't the base that the adapter was trained on", base=str(other))
    merge(adapter, tmp_path / "merged", base=str(base))


def test_a_vocabulary_resized_for_training_is_reported(
    make_base: Callable[..., Path], make_adapter: Callable[..., Path]
) -> None:
    base = make_base("llama")
    adapter = make_adapter(base, LoraConfig(**LORA), lambda model: model.resize_token_embeddings(400))
    refused(adapter, "AdapterError", "vocabulary")


def test_a_tokenizer_with_more_tokens_than_the_base_is_rejected(adapter: Path, make_base: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_base("llama"))
    tokenizer.add_tokens(["<a new one>"])
    tokenizer.save_pretrained(adapter)
    refused(adapter, "TokenizerError", "'<a new one>'")


def test_a_quantised_base_is_rejected(adapter: Path, make_base: Callable[..., Path]) -> None:
    base = adapter.parent / "base"
    shutil.copytree(make_base("llama"), base)
    change_json(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "--base" in str(refused(adapter, "BaseModelError", "stored quantised", base=str(base)))
    with pytest.raises(DlmError, match="stored quantised"):  # before training
        check(str(base), adapter.parent / "out", "merged")


@pytest.mark.parametrize("wrong", [{"num_attention_heads": "x"}, {"num_attention_heads": 0}, {"model_type": "nope"}])
def test_a_base_with_a_wrong_config_is_rejected(
    adapter: Path, make_base: Callable[..., Path], wrong: dict[str, Any]
) -> None:
    base = adapter.parent / "base"
    shutil.copytree(make_base("llama"), base)
    change_json(base / "config.json", **wrong)
    refused(adapter, "BaseModelError", "config.json: transformers has no causal language model", base=str(base))


def test_a_base_with_a_missing_tensor_is_rejected(adapter: Path, make_base: Callable[..., Path]) -> None:
    base = adapter.parent / "base"
    shutil.copytree(make_base("llama"), base)
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.self_attn.v_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    refused(adapter, "BaseModelError", "layers.1.self_attn.v_proj.weight is in no file", base=str(base))


def test_wrong_settings_and_files_are_rejected(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(adapter, "UsageError", "dtype is 'int4'", dtype="int4")
    for size in ("4 parsecs", "4", "", "-4GB", "0GB", "infGB"):
        refused(adapter, "UsageError", f"shard_size is '{size}'", shard_size=size)
    change_json(adapter / "adapter_config.json", base_model_name_or_path="no-such-base")
    refused(adapter, "BaseModelError", "Can't get")
    change_json(adapter / "adapter_config.json", base_model_name_or_path="/no/such/base")
    assert "--base" in str(refused(adapter, "BaseModelError", "base model's folder doesn't exist"))
    change_json(adapter / "adapter_config.json", bias="weird")
    refused(adapter, "AdapterError", "doesn't fit the base: .*weird", base="tiny")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=None)
    refused(adapter, "AdapterError", "records no base")
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(adapter, "AdapterError", "safetensors file is damaged")
    file.unlink()
    refused(adapter, "AdapterError", "adapter_model.safetensors is missing")
