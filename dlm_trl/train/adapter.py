"""The adapter as a PEFT configuration (LoRA, DoRA, AdaLoRA), whether it fits the base and can be merged, and AdaLoRA's
pruning during training.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PretrainedConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from dlm_trl.models.layout import adapted_parameter, empty_model, is_mergeable, storage_problems, stored_parts
from dlm_trl.notes.terminal import say
from dlm_trl.train.arguments import AdapterArguments
from dlm_trl.train.checkpoints import disk_errors

RANKS = "adalora_ranks.pt"  # in a checkpoint
MEANS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # that PEFT's RankAllocator keeps in memory


def peft_config(arguments: AdapterArguments) -> PeftConfig:
    """The PEFT configuration. PEFT adds where the base was loaded from; the lineage names it for other machines."""
    common: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "target_modules": arguments.target_modules or "all-linear",
        "lora_alpha": arguments.lora_alpha,
        "lora_dropout": arguments.lora_dropout,
    }
    if arguments.adapter == "adalora":
        initial = arguments.adalora_init_r or round(1.5 * arguments.lora_r)
        # The number of steps is known once the trainer has counted them: ShrinkRanks sets it.
        return AdaLoraConfig(init_r=initial, target_r=arguments.lora_r, total_step=1, **common)
    return LoraConfig(r=arguments.lora_r, use_dora=arguments.adapter == "dora", **common)


def adapt(base: PretrainedConfig, adapter: PeftConfig) -> PeftModel:
    """The base with the adapter, without weights.

    Raises ValueError, like PEFT, for target modules that the base doesn't have, for kinds of adapters that its experts
    can't have, and for a base that is not a causal language model.
    """
    if type(base) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{base.model_type!r} is not a causal language model")
    model = empty_model(base)
    try:
        with init_empty_weights():
            return get_peft_model(model, adapter)
    except ValueError as error:
        if not getattr(adapter, "target_parameters", None):  # PEFT adds a mixture's experts to "all-linear"
            raise
        raise ValueError(
            f"{str(error).rstrip('.')}, and target_modules includes this base's experts. Set target_modules to modules "
            f"of the attention: {', '.join(sorted(adapter.target_modules))}"
        ) from error


def merge_problems(base: PretrainedConfig, adapted: PeftModel, stored: Iterable[str]) -> list[str]:
    """Why `dlm-trl merge` couldn't merge this adapter, in one line with the setting that helps; [] if it can.

    adapted: from `adapt`. stored: the names of the tensors in the base's files.
    """
    layers = {
        adapted_parameter(name, layer): layer
        for name, layer in adapted.base_model.model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    model = empty_model(base)
    sizes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    problems = storage_problems(layers, stored_parts(model, stored), sizes)
    problems |= {
        name: f"is of a {type(layer.get_base_layer()).__name__}"
        for name, layer in layers.items()
        if not is_mergeable(layer)
    }
    if not problems:
        return []
    modules = {_module(name): f"{name} {reason}" for name, reason in reversed(problems.items())}
    good = {_module(name) for name, layer in layers.items() if type(layer) is not ParamWrapper} - modules.keys()
    remedy = f"Set target_modules to others, such as {', '.join(sorted(good))}" if good else "Choose another base_model"
    return [
        f"The trained adapter couldn't be merged into the base, because of {', '.join(modules)}: "
        f"{'; '.join(list(modules.values())[:3])}. {remedy}."
    ]


def _module(parameter: str) -> str:
    """The last name of a parameter's module, as target_modules has it."""
    return parameter.removesuffix(".weight").rpartition(".")[2]


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
