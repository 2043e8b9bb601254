"""An adapter on disk: its settings, all of which are supported or rejected by name, and its tensors.

adapter = open_adapter(Path("runs/notes"))
adapter.config          # PEFT's LoraConfig or AdaLoraConfig
adapter.read(name)      # one tensor
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError, safe_open

from dlm_trl.models.load import TENSORS, no_tensors
from dlm_trl.models.weights import is_finite
from dlm_trl.notes.errors import AdapterError

CONFIG = "adapter_config.json"
TYPES = ("LORA", "ADALORA")
# Settings that merging handles, and settings that only matter in training. All others, including those of future PEFT
# versions, are rejected unless they are off.
MERGED = {
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "init_r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "bias",
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "init_lora_weights",
}
TRAINING_ONLY = {
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "runtime_config",
    "megatron_core",  # has no effect without megatron_config
    "qalora_group_size",  # has no effect without use_qalora
    "loftq_config",  # these four have no effect without their init_lora_weights
    "eva_config",
    "corda_config",
    "lora_ga_config",
    *("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),  # AdaLoRA's schedule
}
# Initialisations that leave the base unchanged. The others (pissa, olora, corda, loftq, lora_ga, …) change it.
INITS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """The settings of an adapter, and the shapes of its tensors by their names in the file."""

    folder: Path
    config: LoraConfig
    shapes: dict[str, torch.Size]

    @property
    def kind(self) -> str:
        """lora, rslora, dora or adalora."""
        if self.config.peft_type == "ADALORA":
            return "adalora"
        return "dora" if self.config.use_dora else "rslora" if self.config.use_rslora else "lora"

    @property
    def rank(self) -> int:
        """The configured rank; for AdaLoRA, the one before pruning."""
        return int(self.config.init_r if self.kind == "adalora" else self.config.r)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in its stored dtype."""
        with safe_open(self.folder / TENSORS, framework="pt") as opened:
            return opened.get_tensor(name)

    def check_finite(self) -> None:
        """Raises DlmError (AdapterError) for the first tensor with a NaN or an infinity."""
        for name in self.shapes:
            if not is_finite(self.read(name)):
                raise AdapterError(
                    f"{name} contains values that aren't finite: the training diverged.",
                    hint="Train again with a lower learning rate.",
                    path=self.folder / TENSORS,
                )


def open_adapter(folder: Path) -> Adapter:
    """The adapter in this folder.

    Raises DlmError (AdapterError) for a missing or damaged adapter, and for settings that merging doesn't support.
    """
    settings = _read_config(folder)
    if unsupported := list(_unsupported(settings)):
        raise AdapterError(
            f"Merging doesn't support {', '.join(unsupported)}.",
            hint="It supports LoRA, rsLoRA, DoRA and AdaLoRA; PEFT's own merge_and_unload may support more.",
            path=folder / CONFIG,
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:
        raise AdapterError(f"PEFT rejects these settings: {error}", path=folder / CONFIG) from error
    file = folder / TENSORS
    if not file.is_file():
        raise no_tensors(folder)
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: torch.Size(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"The safetensors file is damaged: {error}.", hint="Copy or save it again.", path=file
        ) from error
    return Adapter(folder, config, shapes)


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / CONFIG).is_file()


def _read_config(folder: Path) -> dict[str, Any]:
    if not is_adapter(folder):
        raise AdapterError(
            f"There is no adapter in this folder: {CONFIG} is missing.",
            hint="Give the output folder of a training run.",
            path=folder,
        )
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"Invalid JSON: {error}", hint="Copy or save it again.", path=folder / CONFIG) from error
    if not isinstance(settings, dict):
        raise AdapterError("Not a JSON object.", hint="Copy or save it again.", path=folder / CONFIG)
    return settings


def _unsupported(settings: dict[str, Any]) -> Iterator[str]:
    if settings.get("peft_type") not in TYPES:
        yield f"peft_type {settings.get('peft_type')!r}"
        return  # the other settings have an unknown meaning then
    if settings.get("task_type") not in ("CAUSAL_LM", None):
        yield f"task_type {settings['task_type']!r}"
    if settings.get("init_lora_weights") not in INITS:
        yield f"init_lora_weights {settings['init_lora_weights']!r}, which changes the base"
    for name, value in settings.items():
        if name not in MERGED | TRAINING_ONLY and value not in (None, False, {}, []):
            yield f"{name} {value!r}"
