"""Which numbers each setting may have: `range_problems(settings)` returns a line for each that is out of range.

SFTConfig accepts any number; a dropout of 1 or a learning rate of NaN would only show in the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dlm_trl.train.setting import Setting


@dataclass(frozen=True, slots=True)
class Range:
    """From low to high; with `above` without low itself, with `below` without high itself."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:.10g}"
        return low if self.high == math.inf else f"{low} and {'below' if self.below else 'at most'} {self.high:.10g}"


_POSITIVE = Range(0, above=True)
_NOT_NEGATIVE = Range(0)
_COUNT = Range(1)
_SHARE = Range(0, 1)
_BELOW_1 = Range(0, 1, below=True)
_SEED = Range(0, 2**32 - 1)

RANGES: Mapping[str, Range] = {
    "seed": _SEED,
    "data_seed": _SEED,
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _BELOW_1,
    "adam_beta2": _BELOW_1,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "label_smoothing_factor": _BELOW_1,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "num_train_epochs": _POSITIVE,
    "max_steps": Range(-1),
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "max_length": _COUNT,
    "logging_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": _COUNT,
    "dataset_num_proc": _COUNT,
    "pad_to_multiple_of": _COUNT,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "dataloader_prefetch_factor": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    "ddp_timeout": _COUNT,
    "lora_r": _COUNT,
    "lora_alpha": _COUNT,
    "lora_dropout": _BELOW_1,
    "adalora_init_r": _COUNT,
    "adalora_warmup": _BELOW_1,
    "adalora_final": _BELOW_1,
    "validation_fraction": _BELOW_1,
    "views": _NOT_NEGATIVE,
    "rehearsal": _NOT_NEGATIVE,
    "max_questions": _COUNT,
    "condition_questions": _COUNT,
    "world_size": _COUNT,
    "stage_accuracy": _SHARE,
    "stage_window": _COUNT,
    "synthetic_fraction": Range(0, 1, above=True),
}


def range_problems(settings: Mapping[str, Setting]) -> list[str]:
    """A line for each number that isn't finite or isn't in its setting's range."""
    problems = []
    for name, setting in settings.items():
        value = setting.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        allowed = RANGES.get(name)
        if not math.isfinite(value):
            problems.append(f"{setting.source}: {name} is {value}; it must be a finite number.")
        elif allowed and value not in allowed:
            problems.append(f"{setting.source}: {name} is {value}; it must be {allowed}.")
    return problems
