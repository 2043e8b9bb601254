"""The settings of recipes/dpo.py: the command line wins over YAML, YAML over frontmatter, frontmatter over defaults.

    configuration = read_preference_configuration(["--notes", "notes.dlm", "--adapter_from", "runs/notes"])
    configuration.adapter_from, configuration.training.beta

Reads the document and finds the adapter to start from; loads no weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import DPOConfig

from dlm_trl.models.load import adapter_base, load_config
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import DlmError, UsageError
from dlm_trl.notes.store import trained_adapter
from dlm_trl.train.arguments import PreferenceArguments
from dlm_trl.train.frontmatter import preferences_from_frontmatter
from dlm_trl.train.setting import Setting
from dlm_trl.train.settings import (
    Settings,
    SettingsReader,
    batch_sizes,
    check_values,
    common_defaults,
    half_precision,
)

LEARNING_RATE = 5e-5
EPOCHS = 3


@dataclass
class PreferenceConfiguration(Settings):
    """All settings of a run of recipes/dpo.py. adapter_from: the folder of the adapter to start from."""

    notes: PreferenceArguments
    training: DPOConfig
    document: Document
    adapter_from: Path


def read_preference_configuration(argv: Sequence[str]) -> PreferenceConfiguration:
    """Parse a command line (without the program's name). Raises DlmError, with one line per problem."""
    reader = SettingsReader(PreferenceArguments, DPOConfig)
    given = reader.given(argv)
    said = {name: setting.value for name, setting in given.items()}
    if not said.get("notes"):
        raise UsageError("No document is set.", hint="Set notes (in the YAML, or --notes).")
    document = read(said["notes"])
    settings = {name: Setting(value, "default") for name, value in _defaults(said).items()}
    settings |= preferences_from_frontmatter(document, said.get("adapter_name"))
    settings |= given
    if not said.get("adapter_from"):
        naming, otherwise = "Choose one with adapter_name.", "name its folder: --adapter_from FOLDER."
        folder = trained_adapter(document, said.get("adapter_name"), naming, otherwise)
        settings["adapter_from"] = Setting(str(folder), "default: the document's current adapter")
    adapter_from = Path(settings["adapter_from"].value).expanduser()
    settings |= _by_base(adapter_from, settings)
    check_values(settings)
    settings |= batch_sizes(settings)
    notes, training = reader.build(settings)
    ours = {key: Setting(value, "default") for key, value in vars(notes).items()}
    return PreferenceConfiguration(ours | settings, notes, training, document, adapter_from)


def _by_base(adapter: Path, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    try:
        return half_precision(load_config(adapter_base(adapter)), settings)
    except DlmError:  # preflight reports it, with whatever else is wrong
        return {}


def _defaults(said: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that differ from DPOConfig's."""
    return common_defaults() | {
        "output_dir": f"runs/{Path(said['notes']).stem}-dpo",
        "max_length": 2048,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": EPOCHS,
        "beta": 0.1,
        "loss_type": ["sigmoid"],
    }
