"""An adapter on disk: its settings, each of which is either understood or refused by name, and its tensors.

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

from dlm_trl.notes.errors import AdapterError

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
TYPES = ("LORA", "ADALORA")
# What merging takes into account, and what matters in training alone. Any other setting, also one that a later PEFT
# may bring, is refused unless it is off.
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
    "megatron_core",  # says nothing without megatron_config
    "qalora_group_size",  # says nothing without use_qalora
    "loftq_config",  # these four say nothing without their init_lora_weights
    "eva_config",
    "corda_config",
    "lora_ga_config",
    *("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),  # AdaLoRA's schedule
}
# Starts that leave the base as it is. The others (pissa, olora, corda, loftq, lora_ga, …) take something out of it.
INITS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """The settings of an adapter and the shapes of its tensors, by the names in its file."""

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
        """The rank that the adapter was given; AdaLoRA's before pruning."""
        return self.config.init_r if self.kind == "adalora" else self.config.r

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in the dtype that it is stored in."""
        with safe_open(self.folder / TENSORS, framework="pt") as opened:
            return opened.get_tensor(name)

    def check_finite(self) -> None:
        """Raises DlmError (AdapterError) naming the first tensor that holds a NaN or an infinite number."""
        for name in self.shapes:
            if not is_finite(self.read(name)):
                raise AdapterError(
                    f"{name} holds numbers that are not finite: the training diverged.",
                    hint="Train again, with a lower learning rate.",
                    path=self.folder / TENSORS,
                )


def open_adapter(folder: Path) -> Adapter:
    """The adapter of this folder. Raises DlmError (AdapterError) where there is none, where it is damaged, and naming
    each setting that merging does not know.
    """
    said = _read_config(folder)
    if refused := list(_refused(said)):
        raise AdapterError(
            f"Merging does not know {', '.join(refused)}.",
            hint="It does LoRA, rsLoRA, DoRA and AdaLoRA; PEFT's own merge_and_unload may know more.",
            path=folder / CONFIG,
        )
    try:
        config = PeftConfig.from_pretrained(folder)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"PEFT does not take these settings: {error}", path=folder / CONFIG) from error
    file = folder / TENSORS
    if not file.is_file():
        raise AdapterError(
            f"{TENSORS} is missing.", hint="An adapter_model.bin is not read; save it anew.", path=folder
        )
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: torch.Size(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"It is not a whole safetensors file: {error}.", hint="Copy or save it again.", path=file
        ) from error
    return Adapter(folder, config, shapes)


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / CONFIG).is_file()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are; the smallest and the largest say it without a mask as large as the tensor."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise AdapterError(f"This folder holds no adapter: {CONFIG} is missing.", path=folder)
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"It is not JSON: {error}", path=folder / CONFIG) from error
    if not isinstance(said, dict):
        raise AdapterError("It is not a JSON object.", path=folder / CONFIG)
    return said


def _refused(said: dict[str, Any]) -> Iterator[str]:
    if said.get("peft_type") not in TYPES:
        yield f"peft_type {said.get('peft_type')!r}"
        return  # the other settings are those of a type that nothing is known of
    if said.get("task_type") not in ("CAUSAL_LM", None):
        yield f"task_type {said['task_type']!r}"
    if said.get("init_lora_weights") not in INITS:
        yield f"init_lora_weights {said['init_lora_weights']!r}, which changes the base"
    for name, value in said.items():
        if name not in MERGED | TRAINING_ONLY and value not in (None, False, {}, []):
            yield f"{name} {value!r}"
