"""The settings in a document's frontmatter, each with its value and line.

from_frontmatter(document)                # of recipes/sft.py
preferences_from_frontmatter(document)    # of recipes/dpo.py: `training.preference`, and what both recipes use
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlm_trl.notes import Document
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.key_lines import key_lines
from dlm_trl.train.setting import Setting

# Frontmatter key → setting.
NAMES = {
    "adapter": "adapter",
    "lora_r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "target_modules",
    "learning_rate": "learning_rate",
    "sequence_len": "max_length",
    "micro_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "warmup_ratio": "warmup_steps",  # a number below 1 is a share of all steps
    "seed": "seed",
}
# Those that preference training uses, too; an adapter that exists has its own rank and modules.
SHARED = (
    "sequence_len", "micro_batch_size", "grad_accum", "optimizer", "lr_scheduler", "warmup_ratio", "seed"
)  # fmt: skip
# Key of `training.preference` → setting.
PREFERENCE_NAMES = {
    ("loss_type",): "loss_type",
    ("reference",): "reference",
    ("hyperparams", "beta"): "beta",
    ("hyperparams", "learning_rate"): "learning_rate",
    ("hyperparams", "num_epochs"): "num_train_epochs",
}
# The method "orpo" with DPOTrainer: cross-entropy on the chosen answers plus `alpha` times a preference term on
# log-probabilities per token. ORPO itself has no reference and compares odds; TRL has it as an experiment only.
ORPO_LOSSES = ["sft", "sigmoid_norm"]
ORPO_BETA = 1.0
UNUSED = ("cpt", "gate", "cache", "audio")  # keys of the training block that the format has for others


def from_frontmatter(document: Document, adapter_name: str | None = None) -> dict[str, Setting]:
    """The settings that the document sets, by name.

    adapter_name: which of its named adapters to train. Raises DlmError (UsageError) if it doesn't declare that one, or
    declares some and none is named.
    """
    training = document.frontmatter.training
    source = _Sources(document)
    settings = {"base_model": Setting(document.frontmatter.base_model, source("base_model"))}
    said = training.model_dump(include=training.model_fields_set)
    settings |= _training(source, said, NAMES)
    if adapter := _named_adapter(document, adapter_name):
        settings |= {
            key: Setting(value, source("training", "adapters", adapter_name or "", key))
            for key, value in adapter.items()
        }
    if "target_modules" in settings and settings["target_modules"].value == "auto":
        settings["target_modules"] = Setting(None, settings["target_modules"].source)
    return settings


def preferences_from_frontmatter(document: Document, adapter_name: str | None = None) -> dict[str, Setting]:
    """The settings of preference training that the document sets, by name.

    Raises DlmError (UsageError) as `from_frontmatter` does, and if the document switches preference training off.
    """
    training, source = document.frontmatter.training, _Sources(document)
    said = training.model_dump(include=training.model_fields_set)
    settings = {"base_model": Setting(document.frontmatter.base_model, source("base_model"))}
    settings |= _training(source, said, {key: NAMES[key] for key in SHARED})
    _named_adapter(document, adapter_name)
    if "preference" not in said:
        return settings
    chosen = training.preference.model_dump(exclude_unset=True)

    def place(*key: str) -> str:
        return source("training", "preference", *key)

    if chosen.get("enabled") is False:
        raise UsageError(
            f"{place('enabled')}: training.preference.enabled is false.",
            hint="Set it to true or leave it out to train on the document's preferences.",
        )
    for key, name in PREFERENCE_NAMES.items():
        value = chosen.get(key[0]) if len(key) == 1 else chosen.get(key[0], {}).get(key[1])
        if value is not None:
            settings[name] = Setting([value] if name == "loss_type" else value, place(*key))
    if training.preference.method == "orpo":
        if "loss_type" in settings:
            raise UsageError(
                f"{settings['loss_type'].source}: training.preference.loss_type is for the method dpo, and the method "
                "is orpo.",
                hint="Leave out one of them.",
            )
        orpo = place("method")
        alpha = place("hyperparams", "alpha") if "alpha" in chosen.get("hyperparams", {}) else orpo
        settings["loss_type"] = Setting(ORPO_LOSSES, f"{orpo} (orpo)")
        settings["loss_weights"] = Setting([1.0, training.preference.hyperparams.alpha], f"{alpha} (orpo)")
        settings.setdefault("beta", Setting(ORPO_BETA, f"{orpo} (orpo)"))
    return settings


def _training(source: _Sources, said: dict[str, Any], names: Mapping[str, str]) -> dict[str, Setting]:
    """These settings of the training block and its precision."""
    settings = {name: Setting(said[key], source("training", key)) for key, name in names.items() if key in said}
    if precision := said.get("precision"):
        place = source("training", "precision")
        settings |= {"bf16": Setting(precision == "bf16", place), "fp16": Setting(precision == "fp16", place)}
    return settings


def unused_keys(document: Document) -> list[str]:
    """The keys that the document sets and this package doesn't use, with their lines: `training.cpt (notes.dlm:12)`."""
    source = _Sources(document)
    keys: list[tuple[str, ...]] = [
        ("training", key) for key in UNUSED if key in document.frontmatter.training.model_fields_set
    ]
    if "export" in document.frontmatter.model_fields_set:
        keys.append(("export",))
    return [f"{'.'.join(key)} ({source(*key)})" for key in keys]


class _Sources:
    """File and line of a frontmatter's keys."""

    def __init__(self, document: Document) -> None:
        self._name = document.path.name if document.path else "document"
        head = document.raw[: document.body_start].decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        self._lines, _ = key_lines(head.removeprefix("---\n").rpartition("\n---")[0], first_line=2)

    def __call__(self, *key: str) -> str:
        return f"{self._name}:{self._lines[key]}" if key in self._lines else self._name


def _named_adapter(document: Document, name: str | None) -> dict[str, object]:
    declared = document.frontmatter.training.adapters or {}
    if name is None and not declared:
        return {}
    if name not in declared:
        names = ", ".join(declared) or "none"
        problem = f"The document declares no adapter {name!r}" if name else "The document declares named adapters"
        raise UsageError(
            f"{problem}; declared: {names}.",
            hint="Choose one with adapter_name, one run each." if declared else "Leave adapter_name out.",
            path=document.path,
        )
    return declared[name].model_dump(include=declared[name].model_fields_set)
