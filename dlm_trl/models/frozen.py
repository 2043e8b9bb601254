"""The frozen teacher: the base inside a model that is being trained, with the adapter switched off.

    check_attachable(model)
    with frozen(model) as base:
        texts = generate(base, tokenizer, prompts, max_new_tokens=32)

Inside, the base computes what it would if it had been loaded alone, bit for bit, however long the adapter has been
trained; afterwards the model is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from dlm_trl.models.batching import evaluating
from dlm_trl.notes.errors import AdapterError


def check_attachable(model: nn.Module) -> None:
    """Raises DlmError (AdapterError) where switching the adapter off would not give the base back, saying what to do.

    That is: no adapter, prompt learning, trained biases or other weights of the base itself, an adapter that is merged
    into the base, and one on the head, which TRL does not train.
    """
    if not isinstance(model, PeftModel):
        raise _unfit("The model has no adapter: nothing in it is frozen.", "Train with peft_config=LoraConfig(…).")
    for name, config in model.peft_config.items():
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise _unfit(
                f"The adapter {name!r} is {config.peft_type.value}: it works by tokens put before the text.",
                "Use LoRA, DoRA or AdaLoRA.",
            )
        if getattr(config, "bias", "none") != "none":
            raise _unfit(
                f"The adapter {name!r} has bias={config.bias!r}: the base's own biases are trained, and stay "
                "trained when the adapter is switched off.",
                "Set bias='none'.",
            )
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise _unfit(
            "The adapter is on the head that gives the logits, which SFTTrainer does not train.",
            "Take lm_head out of target_modules; target_modules='all-linear' leaves it out.",
        )
    if model.get_model_status().merged_adapters:
        raise _unfit("The adapter is merged into the base.", "Call unmerge_adapter(), or load base and adapter anew.")
    # The adapter's own parameters are those whose name has the adapter's name in it.
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    own = [name for name in trained if not model.peft_config.keys() & set(name.split("."))]
    if own:
        raise _unfit(
            f"{len(own)} weights of the base itself are trained, {own[0]} the first of them.",
            "Set requires_grad of all weights but the adapter's to False.",
        )


@contextmanager
def frozen(model: PeftModel) -> Iterator[PreTrainedModel]:
    """The base in eval mode, without gradients and without the adapter.

    Mode, requires_grad, the random state of the CPU and of the model's device, `config.use_cache` and the
    generation_config are afterwards what they were before, whatever is raised inside.
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
        for parameter, requires_grad in trained:  # PEFT lets every weight of the adapter be trained again
            parameter.requires_grad_(requires_grad)


def _unfit(message: str, hint: str) -> AdapterError:
    return AdapterError(f"Rows cannot be written by the frozen base. {message}", hint=hint)
