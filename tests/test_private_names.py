"""Private names of libraries that the package uses. If a release of a library changes one, its test fails.

The table is also in CONTRIBUTING.md. Each row has the library, the name, and the module that uses it.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def has(module: str, name: str, *parameters: str) -> Callable[[], None]:
    """A check that the module has this (dotted) name, and that its first parameters are these, in this order."""

    def check() -> None:
        thing: Any = import_module(module)
        for part in name.split("."):
            assert hasattr(thing, part), f"{module} has no {name}"
            thing = getattr(thing, part)
        if parameters:
            names = [parameter for parameter in inspect.signature(thing).parameters if parameter != "self"]
            assert tuple(names[: len(parameters)]) == parameters, f"{module}.{name} takes {names}"

    return check


def adalora_keeps_running_means() -> None:
    source = inspect.getsource(import_module("peft.tuners.adalora.layer").RankAllocator)
    for name in ("self.ipt", "self.exp_avg_ipt", "self.exp_avg_unc"):
        assert name in source, f"RankAllocator has no {name}"


def losses_come_from_log_probs() -> None:
    source = inspect.getsource(import_module("trl").SFTTrainer.compute_loss)
    assert "outputs.log_probs" in source, "SFTTrainer.compute_loss doesn't read outputs.log_probs"


def packaged_modules_have_tables() -> None:
    from datasets import packaged_modules

    for name in ("_PACKAGED_DATASETS_MODULES", "_EXTENSION_TO_MODULE", "_MODULE_TO_EXTENSIONS"):
        assert isinstance(vars(packaged_modules).get(name), dict), f"datasets.packaged_modules has no dict {name}"


def deepspeed_lists_compatible_operators() -> None:
    deepspeed = pytest.importorskip("deepspeed.ops")
    assert isinstance(deepspeed.__compatible_ops__, dict)


FETCH = ("epoch_iterator", "num_batches", "device")
RENAME = ("source_key", "weight_renamings", "weight_converters", "base_model_prefix", "meta_state_dict")
LOSS = ("model", "inputs", "return_outputs", "num_items_in_batch")
TABLE: dict[tuple[str, str, str], Callable[[], None]] = {
    ("trl", "SFTTrainer.compute_loss", "online/hooks.py"): has("trl", "SFTTrainer.compute_loss", *LOSS),
    ("trl", "SFTTrainer.log", "online/hooks.py"): has("trl", "SFTTrainer.log", "logs"),
    ("trl", "outputs.log_probs", "online/predictions.py"): losses_come_from_log_probs,
    ("trl", "trainer.utils._use_triton", "train/loss.py"): has("trl.trainer.utils", "_use_triton", "device"),
    ("trl", "trainer.utils.maybe_gather_lm_head_ctx", "online/predictions.py"): has(
        "trl.trainer.utils", "maybe_gather_lm_head_ctx"
    ),
    ("trl", "models.utils.remove_hooks", "models/sharding.py"): has("trl.models.utils", "remove_hooks", "model"),
    ("trl", "models.utils.add_hooks", "models/sharding.py"): has("trl.models.utils", "add_hooks", "model"),
    ("transformers", "Trainer.get_batch_samples", "online/hooks.py"): has(
        "transformers", "Trainer.get_batch_samples", *FETCH
    ),
    ("transformers", "Trainer._get_num_items_in_batch", "online/callback.py"): has(
        "transformers", "Trainer._get_num_items_in_batch", "batch_samples", "device"
    ),
    ("transformers", "Trainer._save_checkpoint", "online/hooks.py"): has(
        "transformers", "Trainer._save_checkpoint", "model", "trial"
    ),
    ("transformers", "PreTrainedModel._supports_sdpa", "models/attention.py"): has(
        "transformers", "PreTrainedModel._supports_sdpa"
    ),
    ("transformers", "PreTrainedConfig._attn_implementation", "models/attention.py"): has(
        "transformers", "PreTrainedConfig._attn_implementation"
    ),
    ("transformers", "cache_utils.DynamicLayer", "models/prefix.py"): has(
        "transformers.cache_utils", "DynamicLayer.lazy_initialization", "key_states", "value_states"
    ),
    ("transformers", "integrations.fsdp.is_fsdp_managed_module", "models/sharding.py"): has(
        "transformers.integrations.fsdp", "is_fsdp_managed_module"
    ),
    ("transformers", "core_model_loading.rename_source_key", "models/layout.py"): has(
        "transformers.core_model_loading", "rename_source_key", *RENAME
    ),
    ("transformers", "conversion_mapping.get_model_conversion_mapping", "models/layout.py"): has(
        "transformers.conversion_mapping", "get_model_conversion_mapping", "model"
    ),
    ("peft", "tuners.lora.ParamWrapper", "models/layout.py"): has("peft.tuners.lora", "ParamWrapper.get_param"),
    ("peft", "RankAllocator", "train/adapter.py"): adalora_keeps_running_means,
    ("accelerate", "utils.memory.should_reduce_batch_size", "models/batching.py"): has(
        "accelerate.utils.memory", "should_reduce_batch_size", "exception"
    ),
    ("datasets", "packaged_modules", "rows/register.py"): packaged_modules_have_tables,
    ("deepspeed", "ops.__compatible_ops__", "train/distributed.py"): deepspeed_lists_compatible_operators,
    ("argparse", "ArgumentParser._get_value", "train/settings.py"): has(
        "argparse", "ArgumentParser._get_value", "action", "arg_string"
    ),
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]} {row[1]}")
def test_the_library_has_the_name(row: tuple[str, str, str]) -> None:
    TABLE[row]()


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]} {row[1]}")
def test_the_module_uses_the_name_and_contributing_lists_it(row: tuple[str, str, str]) -> None:
    library, name, module = row
    used = (ROOT / "dlm_trl" / module).read_text(encoding="utf-8")
    assert name.rsplit(".", 1)[-1] in used
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"| {library} | `{name}` | `{module}` |" in table
