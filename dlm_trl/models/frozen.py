"""The frozen base: the base inside a model in training, with the adapter switched off.

    check_attachable(model)
    with frozen(model) as base:
        texts = generate(base, tokenizer, prompts, max_new_tokens=32)

Inside, the base computes exactly what it would if loaded alone, no matter how far the adapter is trained. Afterwards
the model is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from dlm_trl.models.batching import evaluating
from dlm_trl.notes.errors import AdapterError


def check_attachable(model: nn.Module) -> None:
    """Raise AdapterError if switching the adapter off would not restore the base.

    That is the case without an adapter, with prompt learning, with trainable weights or biases of the base, and with a
    merged adapter. An adapter on the head is refused too, since TRL doesn't train it.
    """
    if not isinstance(model, PeftModel):
        raise _error("The model has no adapter, so nothing in it is frozen.", "Train with peft_config=LoraConfig(…).")
    for name, config in model.peft_config.items():
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise _error(
                f"The adapter {name!r} is {PeftType(config.peft_type).value}, which learns a prompt.",
                "Use LoRA, DoRA or AdaLoRA.",
            )
        if getattr(config, "bias", "none") != "none":
            raise _error(
                f"The adapter {name!r} has bias={config.bias!r}, which trains biases of the base; they stay trained "
                "when the adapter is switched off.",
                "Set bias='none'.",
            )
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise _error(
            "The adapter is on the LM head, which SFTTrainer doesn't train.",
            "Remove lm_head from target_modules; target_modules='all-linear' excludes it.",
        )
    if model.get_model_status().merged_adapters:
        raise _error("The adapter is merged into the base.", "Call unmerge_adapter(), or reload base and adapter.")
    # An adapter's parameters have the adapter's name in theirs.
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    of_base = [name for name in trained if not model.peft_config.keys() & set(name.split("."))]
    if of_base:
        raise _error(
            f"{len(of_base)} weights of the base are trainable, the first is {of_base[0]}.",
            "Set requires_grad=False for all weights except the adapter's.",
        )


@contextmanager
def frozen(model: PeftModel) -> Iterator[PreTrainedModel]:
    """The base in eval mode, without gradients and without the adapter.

    Restores mode, requires_grad, the random state of the CPU and of the model's device, `config.use_cache` and the
    generation_config, even after an exception.
    """
    base = model.get_base_model()
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    use_cache, generation_config = base.config.use_cache, base.generation_config
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), evaluating(model), model.disable_adapter():
            yield base
    finally:
        base.config.use_cache, base.generation_config = use_cache, generation_config
        for parameter, requires_grad in trained:  # PEFT makes all of the adapter trainable
            parameter.requires_grad_(requires_grad)


def _error(message: str, hint: str) -> AdapterError:
    return AdapterError(f"The frozen base can't write rows. {message}", hint=hint)
