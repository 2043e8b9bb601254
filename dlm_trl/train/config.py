"""Find the value of every setting: the command line wins over YAML, YAML over frontmatter, frontmatter over defaults.

    configuration = read_configuration(["--config", "recipes/notes.yaml", "--lora_r", "4"])
    print_settings(configuration)

Reads the document and checks the names and types of all settings; loads no weights.
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
from trl import SFTConfig, TrlParser

from dlm_trl.models.load import load_config
from dlm_trl.models.precision import inference_dtype
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import ConfigError, DlmError, UsageError
from dlm_trl.notes.escape import redact
from dlm_trl.notes.terminal import console
from dlm_trl.train.arguments import AdapterArguments, NotesArguments, TaskArguments
from dlm_trl.train.frontmatter import from_frontmatter
from dlm_trl.train.ranges import range_problems
from dlm_trl.train.recipe_yaml import read_yaml
from dlm_trl.train.setting import Setting

GLOBAL_BATCH = 16  # rows per optimizer step if both batch settings are "auto"
MICRO_BATCH = 8

BATCHES = ("per_device_train_batch_size", "gradient_accumulation_steps")  # numbers, or "auto"
REQUIRED = (*BATCHES, "output_dir", "max_length", "eval_steps")  # that SFTConfig allows to be None


@dataclass
class Configuration:
    """All settings of a run. settings: value and source by name, for the table."""

    notes: NotesArguments
    adapter: AdapterArguments
    task: TaskArguments
    training: SFTConfig
    document: Document | None
    settings: dict[str, Setting]

    @property
    def base_model(self) -> str:
        """The base's name; `read_configuration` makes sure that there is one."""
        assert self.adapter.base_model is not None
        return self.adapter.base_model

    def change(self, name: str, value: Any, why: str) -> None:
        """Change a setting, and note why in the table."""
        owner = next(part for part in (self.notes, self.adapter, self.task, self.training) if hasattr(part, name))
        setattr(owner, name, value)
        said = self.settings[name].source if name in self.settings else "default"
        self.settings[name] = Setting(value, f"{said}; {why}")


ARGUMENTS = (NotesArguments, AdapterArguments, TaskArguments, SFTConfig)
HINTS = {name: hint for part in ARGUMENTS for name, hint in get_type_hints(part).items()}
SECRET = "hub_token"


class _Parser(TrlParser):
    """TrlParser that raises one-line DlmErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="--help lists all settings.")


def read_configuration(argv: Sequence[str]) -> Configuration:
    """Parse a command line (without the program's name). Raises DlmError, with one line per problem."""
    parser = _Parser(ARGUMENTS, allow_abbrev=False)
    # The first action of a name takes its value; the second is the --no_… of a setting that is true by default.
    known = {action.dest: action for action in reversed(parser._actions) if action.dest in HINTS}
    config_path, argv = _split_config(argv)
    command_line = _explicit(argv, known)
    from_yaml = _from_yaml(config_path, parser, known) if config_path else {}
    said = {name: setting.value for name, setting in from_yaml.items()} | command_line
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
    settings |= from_yaml
    settings |= {name: Setting(value, "command line") for name, value in command_line.items()}
    settings |= _by_base(settings)
    _check_values(settings)
    micro, steps = (settings[key].value for key in BATCHES)
    sizes = auto_batches(micro, steps, int(os.environ.get("WORLD_SIZE", "1")))
    settings |= {key: replace(settings[key], value=size) for key, size in zip(BATCHES, sizes, strict=True)}
    notes, adapter, task, training = _build(parser, settings)
    if adapter.adapter == "qlora" and adapter.quantization is None:
        adapter.quantization = "4bit"
        settings["quantization"] = Setting("4bit", settings["adapter"].source + " (qlora)")
    if adapter.target_modules == ["auto"]:
        adapter.target_modules = None
    ours = {key: Setting(value, "default") for part in (notes, adapter, task) for key, value in vars(part).items()}
    return Configuration(notes, adapter, task, training, document, ours | settings)


def _by_base(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Defaults that depend on the base: the learning rate, and on a CPU float32 or bfloat16."""
    try:
        base = load_config(settings["base_model"].value)
    except DlmError:  # preflight reports it, with whatever else is wrong
        return {}
    width = base.get_text_config().hidden_size
    found = {"learning_rate": Setting(learning_rate(width), f"default for a base of width {width}")}
    if not (torch.cuda.is_available() or settings["fp16"].value):
        half = inference_dtype(base) is torch.bfloat16
        found["bf16"] = Setting(half, "default for this base and processor")
    return {name: setting for name, setting in found.items() if settings[name].is_default}


def learning_rate(width: int) -> float:
    """The default learning rate for LoRA on a base of this hidden size: 5e-4 at 2,000, higher for narrower bases.

    The formula is from Schulman et al., "LoRA Without Regret" (2025), fitted to Llama models; it doesn't depend on the
    rank. At most 3e-3, the highest rate that worked on the narrowest base measured. See benchmarks/RESULTS.md.
    """
    return min(3e-3, float(f"{5e-4 * (2000 / width) ** 0.781:.1e}"))


def shown_settings(configuration: Configuration) -> list[tuple[str, str, str]]:
    """Name, value and source of each setting, without secrets; defaults of SFTConfig are left out."""
    return [
        (name, "(not shown)" if name == SECRET else redact(str(setting.value)), setting.source)
        for name, setting in sorted(configuration.settings.items())
    ]


def print_settings(configuration: Configuration) -> None:
    """Print the settings as a table."""
    table = Table("setting", "value", "source", title="Settings", title_justify="left")
    for row in shown_settings(configuration):
        table.add_row(*row)
    # Full width even if the output goes to a file.
    console(width=160, soft_wrap=True).print(table)


def _defaults(document: Document | None, said: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that differ from SFTConfig's, and the format's defaults for keys that the document leaves out."""
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported()
    stem = Path(said["notes"] if document else said.get("task") or said["task_rows"]).stem
    return {
        "output_dir": f"runs/{stem}",
        "max_length": 2048,
        "learning_rate": 2e-4,  # if the base can't be read; prepare reports it
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
        # The rows of a step are those of a random order, grouped into batches of similar length: little padding. Rows
        # of a task are already in the order of its stages, and of length.
        "train_sampling_strategy": "sequential" if said.get("task_rows") else "batch_rebalance",
        "gradient_checkpointing": False,
        "logging_steps": 5,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "eval_packing": False,
    }


def auto_batches(micro: int | str, steps: int | str, world: int) -> tuple[int, int]:
    """Batch size and accumulation steps for each of `world` processes; "auto" makes 16 rows per optimizer step."""
    if micro == "auto":
        wanted = GLOBAL_BATCH // (world * (1 if steps == "auto" else int(steps)))
        micro = max(1, min(MICRO_BATCH, wanted))
    if steps == "auto":
        steps = max(1, GLOBAL_BATCH // (world * int(micro)))
    return int(micro), int(steps)


def _split_config(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(argv)
    return found.config, rest


def _explicit(argv: list[str], known: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """The settings on the command line, without any defaults."""
    parser = _Parser(ARGUMENTS, allow_abbrev=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        action.required = False
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [word.split("=")[0].lstrip("-") for word in unknown if word.startswith("-")]
        raise (
            _unknown(dict.fromkeys(names, "command line"), known)
            if names
            else UsageError(
                f"{' '.join(unknown)!r} is not an option.",
                hint="Write --key value.",
            )
        )
    return dict(vars(found))


def _from_yaml(path: Path, parser: _Parser, known: Mapping[str, argparse.Action]) -> dict[str, Setting]:
    content = read_yaml(path)
    if "env" in content:
        _set_environment(content.pop("env"))
    if unknown := [name for name in content if name not in known]:
        raise _unknown({name: content[name].source for name in unknown}, known)
    typed, problems = {}, []
    for name, setting in content.items():
        value = setting.value
        try:
            is_auto = name in BATCHES and value == "auto"
            typed[name] = replace(setting, value=value if is_auto else _typed(parser, known[name], value))
        except argparse.ArgumentError as error:
            problems.append(f"{setting.source}: {name}: {error.message.rstrip('.')}.")
    if problems:
        raise ConfigError("\n".join(problems))
    return typed


def _set_environment(setting: Setting) -> None:
    if not isinstance(setting.value or {}, dict):
        raise ConfigError(f"{setting.source}: env must be a mapping of names to values.")
    for name, value in (setting.value or {}).items():
        try:
            os.environ[str(name)] = str(value)
        except (ValueError, OSError):  # an empty name, one with "=", or a null character
            raise ConfigError(f"{setting.source}: env can't set {str(name)!r} to {str(value)!r}.") from None


def _typed(parser: _Parser, action: argparse.Action, value: Any) -> Any:
    """A YAML value converted to the type of its setting, like the same text on the command line.

    Raises argparse.ArgumentError if the command line would refuse it.
    """
    if action.nargs == "+" and isinstance(value, list):
        return [parser._get_value(action, str(word)) for word in value]
    if type(value) in {get_origin(kind) or kind for kind in get_args(HINTS[action.dest])}:
        return value
    if value is None or isinstance(value, list | dict):
        raise argparse.ArgumentError(None, f"it needs a single value, not {value}")
    word = parser._get_value(action, str(value))
    return [word] if action.nargs == "+" else word


def _check_values(settings: Mapping[str, Setting]) -> None:
    problems = range_problems(settings)
    for name in REQUIRED:
        if name in settings and settings[name].value in (None, ""):
            problems.append(f"{settings[name].source}: {name} has no value.")
    if problems:
        raise UsageError("\n".join(problems))


def _unknown(sources: Mapping[str, str], known: Mapping[str, argparse.Action]) -> ConfigError:
    """sources: where each unknown setting is."""
    lines = []
    for name, source in sources.items():
        near = process.extractOne(name, known.keys(), scorer=JaroWinkler.similarity, score_cutoff=0.75)
        lines.append(f"{source}: unknown setting {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
    return ConfigError("\n".join(lines))


def sources_of(settings: Mapping[str, Setting], message: str) -> str:
    """Where the settings come from that an error's message names, or else all that somebody set."""
    chosen = {name: setting.source for name, setting in settings.items() if not setting.is_default}
    named = {name: source for name, source in chosen.items() if name in message}
    return ", ".join(f"{name} ({source})" for name, source in (named or chosen).items())


def _build(parser: _Parser, settings: Mapping[str, Setting]) -> tuple[Any, ...]:
    values = {name: setting.value for name, setting in settings.items()}
    for action in parser._actions:
        value = values.get(action.dest)
        if action.choices and value is not None and str(value) not in map(str, action.choices):
            choices = ", ".join(map(str, action.choices))
            source = settings[action.dest].source
            raise UsageError(f"{source}: {action.dest} is {value!r}.", hint=f"It is one of: {choices}.")
    parser.set_defaults_with_config(**values)
    try:
        return tuple(parser.parse_args_into_dataclasses(args=[]))
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise UsageError(
            f"SFTConfig refuses the settings: {message.rstrip('.')}.", hint=f"You set: {sources_of(settings, message)}."
        ) from error
