"""The settings that a user gave a recipe, from its command line and YAML, with where each one comes from.

    reader = SettingsReader(NotesArguments, SFTConfig)
    given = reader.given(["--config", "recipes/notes.yaml", "--seed", "4"])   # {"seed": Setting(4, "command line"), …}
    notes, training = reader.build(given)

The fields of the given dataclasses are the settings. `config` and `preference_config` add defaults and the document's.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import torch
from rapidfuzz import process
from rapidfuzz.distance import JaroWinkler
from rich.table import Table
from transformers import PretrainedConfig
from trl import TrlParser

from dlm_trl.models.precision import inference_dtype
from dlm_trl.notes.errors import ConfigError, UsageError
from dlm_trl.notes.escape import redact
from dlm_trl.notes.terminal import console
from dlm_trl.train.distributed import meet
from dlm_trl.train.ranges import range_problems
from dlm_trl.train.recipe_yaml import read_yaml
from dlm_trl.train.setting import Setting

GLOBAL_BATCH = 16  # rows per optimizer step if both batch settings are "auto"
MICRO_BATCH = 8

BATCHES = ("per_device_train_batch_size", "gradient_accumulation_steps")  # numbers, or "auto"
REQUIRED = (*BATCHES, "output_dir", "max_length", "eval_steps")  # that the trainers' configurations allow to be None
SECRET = "hub_token"


@dataclass
class Settings:
    """Base of a recipe's configuration. settings: value and source by name, for the table."""

    settings: dict[str, Setting]

    def change(self, name: str, value: Any, why: str) -> None:
        """Change a setting, and note why in the table."""
        owner = next(part for part in vars(self).values() if name in getattr(part, "__dataclass_fields__", ()))
        setattr(owner, name, value)
        said = self.settings[name].source if name in self.settings else "default"
        self.settings[name] = Setting(value, f"{said}; {why}")


class _Parser(TrlParser):
    """TrlParser that raises one-line DlmErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="--help lists all settings.")


class SettingsReader:
    """Reads the settings of a recipe, which are the fields of these dataclasses; the last one is the trainer's own."""

    def __init__(self, *owners: type) -> None:
        self._owners = owners
        self._hints = {name: hint for part in owners for name, hint in get_type_hints(part).items()}
        self._parser = _Parser(owners, allow_abbrev=False)
        # The first action of a name takes its value; the second is the --no_… of a setting that is true by default.
        self._known = {action.dest: action for action in reversed(self._parser._actions) if action.dest in self._hints}

    def given(self, argv: Sequence[str]) -> dict[str, Setting]:
        """What the command line (without the program's name) and the YAML that it names set; the former wins.

        Raises DlmError (UsageError, ConfigError), with one line per problem.
        """
        config_path, rest = _split_config(argv)
        command_line = self._explicit(rest)
        from_yaml = self._from_yaml(config_path) if config_path else {}
        return from_yaml | {name: Setting(value, "command line") for name, value in command_line.items()}

    def build(self, settings: Mapping[str, Setting]) -> tuple[Any, ...]:
        """One instance of each dataclass with these settings. Raises UsageError for values that they refuse."""
        values = {name: setting.value for name, setting in settings.items()}
        for action in self._parser._actions:
            value = values.get(action.dest)
            if action.choices and value is not None and str(value) not in map(str, action.choices):
                choices = ", ".join(map(str, action.choices))
                source = settings[action.dest].source
                raise UsageError(f"{source}: {action.dest} is {value!r}.", hint=f"It is one of: {choices}.")
        self._parser.set_defaults_with_config(**values)
        meet()  # the trainer's configuration connects the processes
        try:
            return tuple(self._parser.parse_args_into_dataclasses(args=[]))
        except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
            message = " ".join(str(error).split())
            raise UsageError(
                f"{self._owners[-1].__name__} refuses the settings: {message.rstrip('.')}.",
                hint=f"You set: {sources_of(settings, message)}.",
            ) from error

    def _explicit(self, argv: list[str]) -> dict[str, Any]:
        """The settings on the command line, without any defaults."""
        parser = _Parser(self._owners, allow_abbrev=False)
        for action in parser._actions:
            action.default = argparse.SUPPRESS
            action.required = False
        found, unknown = parser.parse_known_args(argv)
        if unknown:
            names = [word.split("=")[0].lstrip("-") for word in unknown if word.startswith("-")]
            raise (
                self._unknown(dict.fromkeys(names, "command line"))
                if names
                else UsageError(
                    f"{' '.join(unknown)!r} is not an option.",
                    hint="Write --key value.",
                )
            )
        return dict(vars(found))

    def _from_yaml(self, path: Path) -> dict[str, Setting]:
        content = read_yaml(path)
        if "env" in content:
            _set_environment(content.pop("env"))
        if unknown := [name for name in content if name not in self._known]:
            raise self._unknown({name: content[name].source for name in unknown})
        typed, problems = {}, []
        for name, setting in content.items():
            value = setting.value
            try:
                is_auto = name in BATCHES and value == "auto"
                typed[name] = replace(setting, value=value if is_auto else self._typed(self._known[name], value))
            except argparse.ArgumentError as error:
                problems.append(f"{setting.source}: {name}: {error.message.rstrip('.')}.")
        if problems:
            raise ConfigError("\n".join(problems))
        return typed

    def _typed(self, action: argparse.Action, value: Any) -> Any:
        """A YAML value converted to the type of its setting, like the same text on the command line.

        Raises argparse.ArgumentError if the command line would refuse it.
        """
        if action.nargs == "+" and isinstance(value, list):
            return [self._parser._get_value(action, str(word)) for word in value]
        if type(value) in {get_origin(kind) or kind for kind in get_args(self._hints[action.dest])}:
            return value
        if value is None or isinstance(value, list | dict):
            raise argparse.ArgumentError(None, f"it needs a single value, not {value}")
        word = self._parser._get_value(action, str(value))
        return [word] if action.nargs == "+" else word

    def _unknown(self, sources: Mapping[str, str]) -> ConfigError:
        """sources: where each unknown setting is."""
        lines = []
        for name, source in sources.items():
            near = process.extractOne(name, self._known.keys(), scorer=JaroWinkler.similarity, score_cutoff=0.75)
            lines.append(f"{source}: unknown setting {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return ConfigError("\n".join(lines))


def common_defaults() -> dict[str, Any]:
    """Defaults of every recipe that differ from those of the trainers' configurations."""
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported()
    return {
        "num_train_epochs": 3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "seed": 42,
        "per_device_train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "bf16": bf16,
        "fp16": gpu and not bf16,
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "gradient_checkpointing": False,
        "logging_steps": 5,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
    }


def half_precision(base: PretrainedConfig, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Whether to compute in bfloat16 on a CPU, unless somebody said; {} with a GPU."""
    if torch.cuda.is_available() or settings["fp16"].value or not settings["bf16"].is_default:
        return {}
    return {"bf16": Setting(inference_dtype(base) is torch.bfloat16, "default for this base and processor")}


def check_values(settings: Mapping[str, Setting]) -> None:
    """Raises UsageError for numbers out of range, and for required settings without a value."""
    problems = range_problems(settings)
    for name in REQUIRED:
        if name in settings and settings[name].value in (None, ""):
            problems.append(f"{settings[name].source}: {name} has no value.")
    if problems:
        raise UsageError("\n".join(problems))


def batch_sizes(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Both batch settings as numbers."""
    micro, steps = (settings[key].value for key in BATCHES)
    sizes = auto_batches(micro, steps, int(os.environ.get("WORLD_SIZE", "1")))
    return {key: replace(settings[key], value=size) for key, size in zip(BATCHES, sizes, strict=True)}


def auto_batches(micro: int | str, steps: int | str, world: int) -> tuple[int, int]:
    """Batch size and accumulation steps for each of `world` processes; "auto" makes 16 rows per optimizer step."""
    if micro == "auto":
        wanted = GLOBAL_BATCH // (world * (1 if steps == "auto" else int(steps)))
        micro = max(1, min(MICRO_BATCH, wanted))
    if steps == "auto":
        steps = max(1, GLOBAL_BATCH // (world * int(micro)))
    return int(micro), int(steps)


def shown_settings(configuration: Settings) -> list[tuple[str, str, str]]:
    """Name, value and source of each setting, without secrets; defaults of the trainer's configuration are left out."""
    return [
        (name, "(not shown)" if name == SECRET else redact(str(setting.value)), setting.source)
        for name, setting in sorted(configuration.settings.items())
    ]


def print_settings(configuration: Settings) -> None:
    """Print the settings as a table."""
    table = Table("setting", "value", "source", title="Settings", title_justify="left")
    for row in shown_settings(configuration):
        table.add_row(*row)
    # Full width even if the output goes to a file.
    console(width=160, soft_wrap=True).print(table)


def sources_of(settings: Mapping[str, Setting], message: str) -> str:
    """Where the settings come from that an error's message names, or else all that somebody set."""
    chosen = {name: setting.source for name, setting in settings.items() if not setting.is_default}
    named = {name: source for name, source in chosen.items() if name in message}
    return ", ".join(f"{name} ({source})" for name, source in (named or chosen).items())


def _split_config(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(argv)
    return found.config, rest


def _set_environment(setting: Setting) -> None:
    if not isinstance(setting.value or {}, dict):
        raise ConfigError(f"{setting.source}: env must be a mapping of names to values.")
    for name, value in (setting.value or {}).items():
        try:
            os.environ[str(name)] = str(value)
        except (ValueError, OSError):  # an empty name, one with "=", or a null character
            raise ConfigError(f"{setting.source}: env can't set {str(name)!r} to {str(value)!r}.") from None
