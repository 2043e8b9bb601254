"""The adapter as a PEFT configuration (LoRA, DoRA, AdaLoRA), its size, and AdaLoRA's pruning during training."""

from pathlib import Path
from typing import Any

import torch
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

from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.terminal import say
from dlm_trl.train.arguments import AdapterArguments
from dlm_trl.train.checkpoints import disk_errors

RANKS = "adalora_ranks.pt"  # in a checkpoint
MEANS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # that PEFT's RankAllocator keeps in memory


def peft_config(base_model: str, arguments: AdapterArguments) -> PeftConfig:
    """The PEFT configuration; it records the base by a name that works on any machine."""
    common: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": ModelRef(base_model).record,
        "target_modules": arguments.target_modules or "all-linear",
        "lora_alpha": arguments.lora_alpha,
        "lora_dropout": arguments.lora_dropout,
    }
    if arguments.adapter == "adalora":
        initial = arguments.adalora_init_r or round(1.5 * arguments.lora_r)
        # The number of steps is known once the trainer has counted them: ShrinkRanks sets it.
        return AdaLoraConfig(init_r=initial, target_r=arguments.lora_r, total_step=1, **common)
    return LoraConfig(r=arguments.lora_r, use_dora=arguments.adapter == "dora", **common)


def adapter_parameters(base: PretrainedConfig, adapter: PeftConfig) -> int:
    """The number of trainable parameters, counted on a model without weights.

    Raises ValueError, like PEFT, for target modules that the base doesn't have, and for a base that is not a causal
    language model.
    """
    if type(base) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{base.model_type!r} is not a causal language model")
    with init_empty_weights():
        # Not from_config: with ZeRO-3, that partitions the weights, and there are none.
        model = get_peft_model(MODEL_FOR_CAUSAL_LM_MAPPING[type(base)](base), adapter)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class ShrinkRanks(TrainerCallback):
    """Calls AdaLoRA's `update_and_allocate` in every step, which neither TRL nor transformers does.

    warmup and final: shares of all steps before pruning starts and after it ends. PEFT saves only the ranks listed in
    its configuration and can't load them into an adapter of full width; so the configuration lists them only after
    training, and checkpoints hold the full adapter. The kept ranks and the running means of importance are saved next
    to each checkpoint; a run resumed from `checkpoint` loads them.
    """

    def __init__(self, warmup: float, final: float, checkpoint: str | None = None) -> None:
        self.warmup = warmup
        self.final = final
        self.checkpoint = checkpoint
        self.kept: dict[str, list[bool]] | None = None  # by module, one per rank

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kw: Any
    ) -> None:
        config = model.peft_config["default"]
        config.total_step = state.max_steps
        config.tinit = int(self.warmup * state.max_steps)
        config.tfinal = int(self.final * state.max_steps)
        if self.checkpoint:
            saved = torch.load(Path(self.checkpoint) / RANKS, map_location=model.device, weights_only=True)
            self.kept = saved.pop("kept")
            vars(model.base_model.rankallocator).update(saved)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kw: Any
    ) -> None:
        # Between the optimizer's step and zero_grad: importance is weight × gradient.
        config = model.peft_config["default"]
        config.rank_pattern = self.kept
        model.base_model.update_and_allocate(state.global_step)
        self.kept, config.rank_pattern = config.rank_pattern, None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kw: Any
    ) -> None:
        if state.is_world_process_zero:
            means = {name: vars(model.base_model.rankallocator)[name] for name in MEANS}
            file = Path(args.output_dir, f"checkpoint-{state.global_step}", RANKS)
            with disk_errors(file, "AdaLoRA's ranks"):
                torch.save({"kept": self.kept, **means}, file)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kw: Any
    ) -> None:
        model.peft_config["default"].rank_pattern = self.kept
        if state.is_world_process_zero and self.kept:
            ranks = {name: sum(kept) for name, kept in self.kept.items()}
            say(f"AdaLoRA ranks: {sum(ranks.values()) / len(ranks):.1f} on average; {ranks}")
