"""The frozen base equals the base bit for bit, and leaves the model in training unchanged."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from dlm_trl.models.frozen import check_attachable, frozen
from dlm_trl.models.generate import generate
from dlm_trl.models.load import load_base
from dlm_trl.notes import DlmError

PROMPTS = ["What is yeast?", "Kneading is pressing and folding a dough until", "A"]
ADAPTERS = {
    "lora": LoraConfig(target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM"),
    "dora": LoraConfig(target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
    "adalora": AdaLoraConfig(target_modules="all-linear", total_step=9, lora_dropout=0.5, task_type="CAUSAL_LM"),
    "embeddings": LoraConfig(
        target_modules="all-linear", modules_to_save=["embed_tokens"], lora_dropout=0.5, task_type="CAUSAL_LM"
    ),
}


def state(model: PeftModel) -> dict[str, object]:
    """Everything that the context has to restore."""
    base = model.get_base_model()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(getattr(module, hook)) for module in model.modules() for hook in hooks],
        "adapters": (model.active_adapters, model.get_model_status().enabled),
        "random": torch.get_rng_state().tolist(),
        "use_cache": base.config.use_cache,
        "generation_config": (id(base.generation_config), base.generation_config.to_dict()),
    }


def train(model: PeftModel, tokenizer, steps: int = 3) -> None:
    """A few large steps, so that the adapter has an effect."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    batch = tokenizer(PROMPTS[1], return_tensors="pt")
    for _ in range(steps):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: PreTrainedModel, tokenizer) -> torch.Tensor:
    with torch.no_grad():  # bitsandbytes uses another kernel when gradients are needed
        return model(**tokenizer(PROMPTS[1], return_tensors="pt")).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_equals_the_base_before_and_after_training(model, tokenizer, kind: str, dtype: torch.dtype) -> None:
    alone = model.to(dtype).eval()
    expected = logits(alone, tokenizer)
    texts = generate(alone, tokenizer, PROMPTS, 12)
    adapted = get_peft_model(alone, ADAPTERS[kind])
    adapted.gradient_checkpointing_enable()
    adapted.enable_input_require_grads()
    check_attachable(adapted)
    for _ in range(2):
        adapted.train()
        with frozen(adapted) as base:
            assert torch.equal(logits(base, tokenizer), expected)
            assert generate(base, tokenizer, PROMPTS, 12) == texts
        train(adapted, tokenizer)
    assert not torch.equal(logits(adapted.eval(), tokenizer), expected)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base(random_base: Path, tokenizer, quantization: str) -> None:
    expected = logits(load_base(str(random_base), "float32", quantization).eval(), tokenizer)
    base = prepare_model_for_kbit_training(load_base(str(random_base), "float32", quantization))
    adapted = get_peft_model(base, ADAPTERS["lora"])
    check_attachable(adapted)
    train(adapted, tokenizer)
    with frozen(adapted) as inside:
        assert torch.equal(logits(inside, tokenizer), expected)
    assert not torch.equal(logits(adapted.eval(), tokenizer), expected)


def test_gpt2_with_conv1d(tokenizer) -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=64)).eval()
    expected = logits(base, tokenizer)
    adapted = get_peft_model(base, LoraConfig(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True))
    train(adapted, tokenizer)
    with frozen(adapted) as inside:
        assert torch.equal(logits(inside, tokenizer), expected)
    assert not torch.equal(logits(adapted.eval(), tokenizer), expected)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_restored(model, tokenizer, kind: str, fails: bool) -> None:
    model.config.use_cache = False
    adapted = get_peft_model(model, ADAPTERS[kind])
    adapted.gradient_checkpointing_enable()
    adapted.enable_input_require_grads()
    adapted.train()
    adapted.base_model.model.model.layers[0].eval()  # a mixed mode has to be restored too
    next(p for p in adapted.parameters() if p.requires_grad).requires_grad_(False)
    before = state(adapted)

    def use(base: PreTrainedModel) -> None:
        assert not any(module.training for module in adapted.modules())
        generate(base, tokenizer, PROMPTS, 8, temperature=1.0)
        torch.rand(3)
        base.config.use_cache = True
        base.generation_config = None
        if fails:
            raise RuntimeError("out of luck")

    try:
        with frozen(adapted) as base:
            use(base)
    except RuntimeError as error:
        assert str(error) == "out of luck"
    assert state(adapted) == before


def unadapted(model: PreTrainedModel) -> PreTrainedModel:
    return model


def on_head(model: PreTrainedModel) -> PeftModel:
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"]))


def with_biases(model: PreTrainedModel) -> PeftModel:
    return get_peft_model(model, LoraConfig(target_modules=["q_proj"], bias="all"))


def prompt_learning(model: PreTrainedModel) -> PeftModel:
    return get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


def merged(model: PreTrainedModel) -> PeftModel:
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    adapted.merge_adapter()
    return adapted


def with_trained_norm(model: PreTrainedModel) -> PeftModel:
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    model.model.norm.weight.requires_grad_(True)
    return adapted


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (unadapted, "peft_config"),
        (on_head, "lm_head"),
        (with_biases, "bias='none'"),
        (prompt_learning, "Use LoRA"),
        (merged, "unmerge"),
        (with_trained_norm, "requires_grad"),
    ],
)
def test_unsupported_adapters_are_refused_with_a_hint(model, build: Callable, hint: str) -> None:
    with pytest.raises(DlmError) as error:
        check_attachable(build(model))
    assert error.value.kind == "AdapterError"
    assert hint in error.value.hint
