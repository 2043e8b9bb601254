"""The merge against PEFT's own on every kind of adapter; the result loads anywhere; what is wrong is said before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from dlm_trl.export.merge import merge

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
LORA = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, "target_modules": "all-linear"}
ADALORA = {"task_type": "CAUSAL_LM", "init_r": 6, "target_r": 3, "total_step": 10, "target_modules": "all-linear"}
CONV1D = ["c_attn", "c_proj", "c_fc"]
PATTERNS = {
    "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7},
    "alpha_pattern": {"k_proj": 32, r".*\.0\.mlp\.down_proj": 3},
}


def prune(model: PeftModel) -> None:
    """As AdaLoRA's allocator leaves it: some ranks of each module are gone, and all of one module."""
    pattern = {}
    for number, (name, module) in enumerate(model.base_model.model.named_modules()):
        if hasattr(module, "lora_E"):
            kept = [number % 3 != k % 3 and name.count("mlp.up_proj") == 0 for k in range(6)]
            pattern[f"{name}.lora_E.default"] = kept
    model.peft_config["default"].rank_pattern = pattern


def halve(model: PeftModel) -> None:
    """An adapter that is saved in 16 bit."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16()


CASES = {
    "lora": ("llama", LoraConfig(**LORA)),
    "rslora": ("llama", LoraConfig(**LORA, use_rslora=True)),
    "dora": ("llama", LoraConfig(**LORA, use_dora=True)),
    "patterns": ("llama", LoraConfig(**LORA, **PATTERNS)),
    "patterns, rslora": ("llama", LoraConfig(**LORA, **PATTERNS, use_rslora=True)),
    "regex": ("llama", LoraConfig(**LORA | {"target_modules": r".*layers\.1\..*(q|up)_proj"})),
    "some layers": ("llama", LoraConfig(**LORA | {"target_modules": ["v_proj"]}, layers_to_transform=[1])),
    "all but": ("llama", LoraConfig(**LORA, exclude_modules=["o_proj"])),
    "orthogonal": ("llama", LoraConfig(**LORA, init_lora_weights="orthogonal")),
    "adalora": ("llama", AdaLoraConfig(**ADALORA)),
    "pruned adalora": ("llama", AdaLoraConfig(**ADALORA), prune),
    "head": ("llama", LoraConfig(**LORA | {"target_modules": ["lm_head", "q_proj"]})),
    "embeddings": ("llama", LoraConfig(**LORA | {"target_modules": ["embed_tokens", "q_proj"]})),
    "dora on embeddings": ("llama", LoraConfig(**LORA | {"target_modules": ["embed_tokens"]}, use_dora=True)),
    "whole modules": ("llama", LoraConfig(**LORA, modules_to_save=["lm_head", "input_layernorm"])),
    "16-bit adapter": ("llama", LoraConfig(**LORA), halve),
    "bias": ("qwen2", LoraConfig(**LORA, bias="all")),
    "lora's biases": ("qwen2", LoraConfig(**LORA | {"target_modules": ["q_proj"]}, bias="lora_only")),
    "conv1d": ("gpt2", LoraConfig(**LORA | {"target_modules": CONV1D}, fan_in_fan_out=True)),
    "conv1d, rslora": ("gpt2", LoraConfig(**LORA | {"target_modules": CONV1D}, use_rslora=True, bias="all")),
    "conv1d, dora": ("gpt2", LoraConfig(**LORA | {"target_modules": CONV1D}, use_dora=True)),
    "conv1d, adalora": ("gpt2", AdaLoraConfig(**ADALORA | {"target_modules": CONV1D}), prune),
    "tied, untouched": ("tied", LoraConfig(**LORA)),
}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in the safetensors files of a folder."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_merge_is_pefts(
    case: str, make_base: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    kind, config, *change = CASES[case]
    base = make_base(kind)
    adapter = make_adapter(base, config, *change)
    merged = tensors(merge(adapter, tmp_path / "merged"))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    expected = model.merge_and_unload(safe_merge=True).state_dict()
    before = tensors(base)
    assert merged.keys() == before.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    changed = [name for name in merged if not torch.equal(merged[name], before[name])]
    hop = json.loads((tmp_path / "merged" / "lineage.json").read_text())["hops"][-1]
    assert changed  # the adapter did something, and the lineage says to what
    assert set(changed) <= set(hop["merged"])
