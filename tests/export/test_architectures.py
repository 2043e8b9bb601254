"""A tiny model of each architecture: what training adapts by default is merged exactly, or refused before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from dlm_trl.export.merge import merge
from dlm_trl.models import lineage
from dlm_trl.models.load import load_config
from dlm_trl.models.weights import find_weights
from dlm_trl.notes import DlmError
from dlm_trl.train.adapter import adapt, merge_problems, peft_config
from dlm_trl.train.arguments import AdapterArguments

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
HYBRID = TEXT | LINEAR | {"layer_types": ["linear_attention", "full_attention"]}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
GEMMA4 = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300, "num_kv_shared_layers": 0}
# model_type: its configuration beside the vocabulary.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": TEXT,
    "mistral": TEXT,
    "mixtral": TEXT | EXPERTS,
    "qwen2": TEXT,
    "qwen3": TEXT,
    "qwen3_moe": TEXT | EXPERTS,
    "qwen3_5_text": HYBRID,
    "qwen3_5": {"text_config": HYBRID, "vision_config": VISION | {"depth": 1, "out_hidden_size": 32, "num_heads": 2}},
    "gemma2": TEXT,
    "gemma3_text": TEXT,
    "gemma3": {"text_config": TEXT, "vision_config": VISION | {"image_size": 28, "patch_size": 14}},
    "gemma4_text": TEXT | GEMMA4,
    "phi3": TEXT,
    "olmo2": TEXT,
    "smollm3": TEXT,
    "granite": TEXT,
    "gpt2": GPT,
    "gpt_neox": TEXT,
    "gpt_oss": TEXT | EXPERTS,
    "bloom": GPT | {"hidden_size": 32},
}
# Its attention is stored as one matrix, which transformers divides into four.
FUSED = {"hrm_text": TEXT | {"num_layers_per_stack": 2, "H_cycles": 1, "L_cycles": 1, "L_bp_cycles": [1]}}


@pytest.fixture
def make_base(random_base: Path, tmp_path: Path) -> Callable[[str], Path]:
    """make_base(model_type): the folder of a base with random weights."""

    def make(kind: str) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(random_base)
        vocabulary = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
        vocabulary["pad_token_id"] = tokenizer.pad_token_id
        settings = (ARCHITECTURES | FUSED)[kind]
        if "text_config" in settings:
            settings = settings | {"text_config": settings["text_config"] | vocabulary}
        else:
            settings = settings | vocabulary
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **settings)
        model = whole_model(config)
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return make


def whole_model(config: PretrainedConfig) -> Any:
    """The model as it is published: a multimodal one with everything that isn't text."""
    from transformers import AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return kind.from_config(config).eval()


def train(base: Path, adapter: Path, **settings: Any) -> PeftModel:
    """An adapter by the package's defaults, with random weights; saved and returned on its base."""
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, peft_config(AdapterArguments(lora_r=4, lora_alpha=8, **settings)))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(adapter)
    return adapted.eval()


def problems(base: Path, **settings: Any) -> list[str]:
    """What preflight says about merging an adapter with these settings."""
    config = load_config(str(base))
    adapted = adapt(config, peft_config(AdapterArguments(**settings)))
    return merge_problems(config, adapted, find_weights(str(base)).files)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_training_adapts_is_merged_exactly(kind: str, make_base: Callable[[str], Path], tmp_path: Path) -> None:
    base = make_base(kind)
    assert problems(base) == []
    trained = train(base, tmp_path / "adapter")
    merged = merge(tmp_path / "adapter", tmp_path / "merged")
    assert find_weights(str(merged)).shapes() == find_weights(str(base)).shapes()
    ids = torch.arange(5, 37)[None]
    with torch.no_grad():
        before = trained.base_model.model
        expected = trained(ids).logits
        found = AutoModelForCausalLM.from_pretrained(merged).eval()(ids).logits
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
        with trained.disable_adapter():
            untrained = before(ids).logits
    tolerance = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=tolerance)
    assert (untrained - expected).abs().max() > 1e4 * tolerance


@pytest.mark.parametrize(
    ("kind", "stored", "changed"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w3.weight", 2 * (4 + 4 * 3 + 1)),
        ("qwen3_moe", "model.layers.1.mlp.experts.3.up_proj.weight", 2 * (4 + 4 * 3 + 1)),
        ("gemma3", "language_model.model.layers.1.mlp.up_proj.weight", None),
        ("gpt_neox", "gpt_neox.layers.1.mlp.dense_h_to_4h.weight", 2 * 4),
    ],
)
def test_the_base_is_stored_under_other_names_than_the_model_has(
    kind: str, stored: str, changed: int | None, make_base: Callable[[str], Path], tmp_path: Path
) -> None:
    """So that the cases above are what they seem, and every tensor that the adapter changes is listed."""
    base = make_base(kind)
    assert stored in find_weights(str(base)).files
    train(base, tmp_path / "adapter")
    merged = lineage.read(merge(tmp_path / "adapter", tmp_path / "merged"))[-1]["merged"]
    assert stored in merged
    assert changed in (None, len(merged))


def test_a_base_whose_matrices_are_stored_in_another_form_is_refused_with_the_setting_that_helps(
    make_base: Callable[[str], Path], tmp_path: Path
) -> None:
    base = make_base("hrm_text")
    (line,) = problems(base)
    assert line.startswith("The trained adapter couldn't be merged into the base, because of ")
    assert "is stored in another form (Chunk)" in line
    assert line.endswith("Set target_modules to others, such as down_proj, o_proj.")
    train(base, tmp_path / "adapter")
    with pytest.raises(DlmError, match=r"q_proj.weight is in no file.*target_modules"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    assert problems(base, target_modules=["down_proj", "o_proj"]) == []
    train(base, tmp_path / "other", target_modules=["down_proj", "o_proj"])
    merge(tmp_path / "other", tmp_path / "merged")


@pytest.mark.parametrize("settings", [{"adapter": "dora"}, {"lora_dropout": 0.1}], ids=str)
def test_adapters_that_experts_cant_have_are_refused_with_the_setting_that_helps(
    settings: dict[str, Any], make_base: Callable[[str], Path]
) -> None:
    base = make_base("mixtral")
    with pytest.raises(ValueError, match=r"experts\. Set target_modules to .*: k_proj, o_proj, q_proj, v_proj$"):
        problems(base, **settings)
    assert problems(base, **settings, target_modules=["q_proj", "v_proj"]) == []


def test_a_missing_expert_is_noticed(make_base: Callable[[str], Path], tmp_path: Path) -> None:
    base = make_base("mixtral")
    train(base, tmp_path / "adapter")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.0.block_sparse_moe.experts.1.w2.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DlmError, match=r"layers\.0\.mlp\.experts\.down_proj lacks experts"):
        merge(tmp_path / "adapter", tmp_path / "merged")


def test_experts_stored_together_are_merged_together(make_base: Callable[[str], Path], tmp_path: Path) -> None:
    """As the model has them, also with the two dimensions of each expert's matrix the other way round (gpt_oss)."""
    base = make_base("gpt_oss")
    config = LoraConfig(r=3, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    config.base_model_name_or_path = str(base)
    trained = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(1)
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    trained.save_pretrained(tmp_path / "adapter")
    merged = load_file(merge(tmp_path / "adapter", tmp_path / "merged") / "model.safetensors")
    before, expected = load_file(base / "model.safetensors"), trained.merge_and_unload().state_dict()
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    assert {name.rpartition("experts.")[2] for name in changed if "experts" in name} == {"gate_up_proj", "down_proj"}
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
