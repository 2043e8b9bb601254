"""Find the value of every setting: the command line wins over YAML, YAML over frontmatter, frontmatter over defaults.

    configuration = read_configuration(["--config", "recipes/notes.yaml", "--lora_r", "4"])
    print_settings(configuration)

Reads the document and checks the names and types of all settings; loads no weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import SFTConfig

from dlm_trl.models.load import load_config
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import DlmError, UsageError
from dlm_trl.train.arguments import AdapterArguments, NotesArguments, TaskArguments
from dlm_trl.train.frontmatter import from_frontmatter
from dlm_trl.train.setting import Setting
from dlm_trl.train.settings import (
    Settings,
    SettingsReader,
    batch_sizes,
    check_values,
    common_defaults,
    half_precision,
)


@dataclass
class Configuration(Settings):
    """All settings of a run of recipes/sft.py."""

    notes: NotesArguments
    adapter: AdapterArguments
    task: TaskArguments
    training: SFTConfig
    document: Document | None

    @property
    def base_model(self) -> str:
        """The base's name; `read_configuration` makes sure that there is one."""
        assert self.adapter.base_model is not None
        return self.adapter.base_model


def read_configuration(argv: Sequence[str]) -> Configuration:
    """Parse a command line (without the program's name). Raises DlmError, with one line per problem."""
    reader = SettingsReader(NotesArguments, AdapterArguments, TaskArguments, SFTConfig)
    given = reader.given(argv)
    said = {name: setting.value for name, setting in given.items()}
    if not (said.get("notes") or said.get("task") or said.get("task_rows")):
        raise UsageError(
            "No document and no task is set.",
            hint="Set notes (in the YAML, or --notes), or task.",
        )
    document = read(said["notes"]) if said.get("notes") else None
    if document is None and said.get("base_model") is None:
        raise UsageError(
            "No base model is set, and there is no document that names one.",
            hint="Set base_model (in the YAML, or --base_model); tiny is the built-in one.",
        )

    settings = {name: Setting(value, "default") for name, value in _defaults(document, said).items()}
    if document:
        settings |= from_frontmatter(document, said.get("adapter_name"))
    settings |= given
    settings |= _by_base(settings)
    check_values(settings)
    settings |= batch_sizes(settings)
    notes, adapter, task, training = reader.build(settings)
    if adapter.adapter == "qlora" and adapter.quantization is None:
        adapter.quantization = "4bit"
        settings["quantization"] = Setting("4bit", settings["adapter"].source + " (qlora)")
    if adapter.target_modules == ["auto"]:
        adapter.target_modules = None
    ours = {key: Setting(value, "default") for part in (notes, adapter, task) for key, value in vars(part).items()}
    return Configuration(ours | settings, notes, adapter, task, training, document)


def _by_base(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Defaults that depend on the base: the learning rate, and on a CPU float32 or bfloat16."""
    try:
        base = load_config(settings["base_model"].value)
    except DlmError:  # preflight reports it, with whatever else is wrong
        return {}
    found = half_precision(base, settings)
    if settings["learning_rate"].is_default:
        width = base.get_text_config().hidden_size
        found["learning_rate"] = Setting(learning_rate(width), f"default for a base of width {width}")
    return found


def learning_rate(width: int) -> float:
    """The default learning rate for LoRA on a base of this hidden size: 5e-4 at 2,000, higher for narrower bases.

    The formula is from Schulman et al., "LoRA Without Regret" (2025), fitted to Llama models; it doesn't depend on the
    rank. At most 3e-3, the highest rate that worked on the narrowest base measured. See benchmarks/RESULTS.md.
    """
    return min(3e-3, float(f"{5e-4 * (2000 / width) ** 0.781:.1e}"))


def _defaults(document: Document | None, said: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that differ from SFTConfig's, and the format's defaults for keys that the document leaves out."""
    stem = Path(said["notes"] if document else said.get("task") or said["task_rows"]).stem
    return common_defaults() | {
        "output_dir": f"runs/{stem}",
        "max_length": 2048,
        "learning_rate": 2e-4,  # if the base can't be read; prepare reports it
        # The rows of a step are those of a random order, grouped into batches of similar length: little padding. Rows
        # of a task are already in the order of its stages, and of length.
        "train_sampling_strategy": "sequential" if said.get("task_rows") else "batch_rebalance",
        "eval_packing": False,
    }
