"""The adapter: LoRA, DoRA or AdaLoRA as a PEFT configuration, its size, and AdaLoRA's pruning during the run."""

import logging

from accelerate import init_empty_weights
from peft import AdaLoraConfig, LoraConfig, PeftConfig, get_peft_model
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PretrainedConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from dlm_trl.models.registry import recorded_name
from dlm_trl.train.arguments import AdapterArguments

logger = logging.getLogger(__name__)


def peft_config(arguments: AdapterArguments) -> PeftConfig:
    """What `arguments` describe; it names the base so that the adapter finds it again on any machine."""
    common = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": recorded_name(arguments.base_model),
        "target_modules": arguments.target_modules or "all-linear",
        "lora_alpha": arguments.lora_alpha,
        "lora_dropout": arguments.lora_dropout,
    }
    if arguments.adapter == "adalora":
        wide = arguments.adalora_init_r or round(1.5 * arguments.lora_r)
        # The schedule's steps are known once the trainer has counted them: ShrinkRanks sets them.
        return AdaLoraConfig(init_r=wide, target_r=arguments.lora_r, total_step=1, **common)
    return LoraConfig(r=arguments.lora_r, use_dora=arguments.adapter == "dora", **common)


def adapter_parameters(base: PretrainedConfig, adapter: PeftConfig) -> int:
    """How many numbers the adapter trains, counted on a model without weights.

    Raises ValueError, as PEFT does, for target modules that the base does not have, and for a base that is no causal
    language model.
    """
    if type(base) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{base.model_type!r} is no causal language model")
    with init_empty_weights():
        # The class itself: from_config would have DeepSpeed part the weights, which are not there.
        model = get_peft_model(MODEL_FOR_CAUSAL_LM_MAPPING[type(base)](base), adapter)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class ShrinkRanks(TrainerCallback):
    """Calls AdaLoRA's `update_and_allocate` in every step, which neither TRL nor transformers does.

    Before `warmup` (a share of all steps) nothing is pruned, in the last `final` share nothing more. The importance
    of each rank is a running mean that PEFT keeps in memory, so a resumed run gathers it anew.
    """

    def __init__(self, warmup: float, final: float) -> None:
        self.warmup = warmup
        self.final = final

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        config = model.peft_config["default"]
        config.total_step = state.max_steps
        config.tinit = int(self.warmup * state.max_steps)
        config.tfinal = int(self.final * state.max_steps)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        # After the optimizer's step and before the gradients are cleared: the importance is weight × gradient.
        model.base_model.update_and_allocate(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        if state.is_world_process_zero and (pattern := model.peft_config["default"].rank_pattern):
            ranks = {name: sum(kept) for name, kept in pattern.items()}
            print(f"AdaLoRA ranks: {sum(ranks.values()) / len(ranks):.1f} on average; {ranks}")
