"""The settings in a document's frontmatter: `from_frontmatter(document)` maps each setting to its value and line."""

from __future__ import annotations

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
UNUSED = ("preference", "cpt", "gate", "cache", "audio")  # keys of the training block that the format has for others


def from_frontmatter(document: Document, adapter_name: str | None = None) -> dict[str, Setting]:
    """The settings that the document sets, by name.

    adapter_name: which of its named adapters to train. Raises DlmError (UsageError) if it doesn't declare that one, or
    declares some and none is named.
    """
    training = document.frontmatter.training
    source = _Sources(document)
    settings = {"base_model": Setting(document.frontmatter.base_model, source("base_model"))}
    said = training.model_dump(include=training.model_fields_set)
    settings |= {name: Setting(said[key], source("training", key)) for key, name in NAMES.items() if key in said}
    if precision := said.get("precision"):
        place = source("training", "precision")
        settings |= {"bf16": Setting(precision == "bf16", place), "fp16": Setting(precision == "fp16", place)}
    if adapter := _named_adapter(document, adapter_name):
        settings |= {
            key: Setting(value, source("training", "adapters", adapter_name or "", key))
            for key, value in adapter.items()
        }
    if "target_modules" in settings and settings["target_modules"].value == "auto":
        settings["target_modules"] = Setting(None, settings["target_modules"].source)
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
