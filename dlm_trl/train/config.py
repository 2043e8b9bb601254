"""Where every setting's value comes from: command line over YAML over the document's frontmatter over default.

    configuration = read_configuration(["--config", "recipes/notes.yaml", "--lora_r", "4"])
    print_settings(configuration)

Nothing here loads weights; the document is read, the YAML and the command line are checked against what exists.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import torch
import yaml
from rapidfuzz import process
from rapidfuzz.distance import JaroWinkler
from rich.console import Console
from rich.table import Table
from trl import SFTConfig, TrlParser

from dlm_trl.models.load import load_config
from dlm_trl.models.precision import inference_dtype
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import ConfigError, DlmError, UsageError
from dlm_trl.train.arguments import AdapterArguments, NotesArguments, TaskArguments

GLOBAL_BATCH = 16  # rows of an optimizer step where the document leaves both of its batch settings at "auto"
MICRO_BATCH = 8

# Frontmatter key → setting, where one value stands for one value; the others are in _from_frontmatter.
FLAT_KEYS = {
    "sequence_len": "max_length",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "warmup_ratio": "warmup_steps",  # a number below 1 is a share of all steps
    "seed": "seed",
}
BATCHES = ("per_device_train_batch_size", "gradient_accumulation_steps")  # numbers, or "auto"
ABOVE_0 = (*BATCHES, "per_device_eval_batch_size", "max_length", "max_questions", "condition_questions", "eval_steps")
ADAPTER_KEYS = ("adapter", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "learning_rate")


@dataclass(frozen=True)
class Setting:
    """A value and where it was said."""

    value: Any
    source: str


@dataclass
class Configuration:
    """Everything a run needs to know; `settings` is what the table shows, by name."""

    notes: NotesArguments
    adapter: AdapterArguments
    task: TaskArguments
    training: SFTConfig
    document: Document | None
    settings: dict[str, Setting]

    def change(self, name: str, value: Any, why: str) -> None:
        """Sets one setting anew and says so in the table."""
        owner = next(part for part in (self.notes, self.adapter, self.task, self.training) if hasattr(part, name))
        setattr(owner, name, value)
        said = self.settings[name].source if name in self.settings else "default"
        self.settings[name] = Setting(value, f"{said}; {why}")


ARGUMENTS = (NotesArguments, AdapterArguments, TaskArguments, SFTConfig)
HINTS = {name: hint for part in ARGUMENTS for name, hint in get_type_hints(part).items()}
SECRET = "hub_token"


class _Parser(TrlParser):
    """TrlParser whose complaints are DlmErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="--help lists all settings.")


def read_configuration(argv: Sequence[str]) -> Configuration:
    """The configuration for a command line (without the program's name). Raises DlmError, one line for each problem."""
    parser = _Parser(ARGUMENTS, allow_abbrev=False)
    # The first of a name's actions takes its value; the other is the --no_… of a setting that is true by default.
    known = {action.dest: action for action in reversed(parser._actions) if action.dest in HINTS}
    config_path, argv = _split_config(argv)
    command_line = _explicit(argv, known)
    from_yaml = _read_yaml(config_path, parser, known) if config_path else {}
    said = from_yaml | command_line
    if not (said.get("notes") or said.get("task") or said.get("task_rows")):
        raise UsageError(
            "Neither a document nor a task was named.",
            hint="Set notes: in the YAML, or --notes; or task.",
        )
    document = read(said["notes"]) if said.get("notes") else None
    if document is None and said.get("base_model") is None:
        raise UsageError(
            "No base model was named, and there is no document that names one.",
            hint="Set base_model: in the YAML, or --base_model (tiny is the embedded one).",
        )

    settings = {name: Setting(value, "default") for name, value in _defaults(document, said).items()}
    layers = (
        (Path(said["notes"]).name, _from_frontmatter(document, said.get("adapter_name"))) if document else ("", {}),
        (str(config_path), from_yaml),
        ("command line", command_line),
    )
    for source, values in layers:
        settings |= {key: Setting(value, source) for key, value in values.items()}
    settings |= _by_base(settings)
    _check_numbers(settings)
    sizes = auto_batches(*(settings[key].value for key in BATCHES), int(os.environ.get("WORLD_SIZE", "1")))
    settings |= {key: replace(settings[key], value=size) for key, size in zip(BATCHES, sizes, strict=True)}
    notes, adapter, task, training = _build(parser, {key: setting.value for key, setting in settings.items()})
    if adapter.adapter == "qlora" and adapter.quantization is None:
        adapter.quantization = "4bit"
        settings["quantization"] = Setting("4bit", settings["adapter"].source + " (qlora)")
    if adapter.target_modules == ["auto"]:
        adapter.target_modules = None
    ours = {key: Setting(value, "default") for part in (notes, adapter, task) for key, value in vars(part).items()}
    return Configuration(notes, adapter, task, training, document, ours | settings)


def _by_base(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """What depends on the base where nobody sets it: the learning rate, and on a CPU float32 or bfloat16."""
    try:
        base = load_config(settings["base_model"].value)
    except DlmError:  # preflight reports it, with whatever else is wrong
        return {}
    width = base.get_text_config().hidden_size
    found = {"learning_rate": Setting(learning_rate(width), f"default for a base of width {width}")}
    if not (torch.cuda.is_available() or settings["fp16"].value):
        half = inference_dtype(base) is torch.bfloat16
        found["bf16"] = Setting(half, "default for this base and processor")
    return {name: setting for name, setting in found.items() if settings[name].source == "default"}


def learning_rate(width: int) -> float:
    """A learning rate for LoRA on a base of this hidden size: 5e-4 at 2,000, more for narrower ones, 3e-3 at most.

    Schulman et al., "LoRA Without Regret" (2025), who fitted it to Llama models; it does not depend on the rank. The
    most is what the narrowest base that was measured takes. Rounded to two digits. Figures: benchmarks/RESULTS.md.
    """
    return min(3e-3, float(f"{5e-4 * (2000 / width) ** 0.781:.1e}"))


def print_settings(configuration: Configuration) -> None:
    """The table of each setting, its value and where it came from; SFTConfig's untouched defaults are left out."""
    table = Table("setting", "value", "source", title="Settings", title_justify="left")
    for name, setting in sorted(configuration.settings.items()):
        table.add_row(name, "(not shown)" if name == SECRET else str(setting.value), setting.source)
    # As wide as its content: a file that a run's output goes to has no width of its own.
    Console(width=160, soft_wrap=True).print(table)


def _defaults(document: Document | None, said: Mapping[str, Any]) -> dict[str, Any]:
    """Where the recipe differs from SFTConfig, and what the format says of keys that the document leaves out."""
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported()
    stem = Path(said["notes"] if document else said.get("task") or said["task_rows"]).stem
    return {
        "output_dir": f"runs/{stem}",
        "max_length": 2048,
        "learning_rate": 2e-4,  # where the base is not there to be looked at
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
        # The same rows in every step as a random order gives, dealt into batches of like length: little padding. Rows
        # of a task lie in the order of its stages, and of lengths already.
        "train_sampling_strategy": "sequential" if said.get("task_rows") else "batch_rebalance",
        "gradient_checkpointing": False,
        "logging_steps": 5,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "eval_packing": False,
    }


def _from_frontmatter(document: Document, adapter_name: str | None) -> dict[str, Any]:
    """What the document itself says, under the names of the settings; keys left out are not in it."""
    training = document.frontmatter.training
    values: dict[str, Any] = {"base_model": document.frontmatter.base_model}
    said = training.model_dump(include=training.model_fields_set)
    values |= {setting: said[key] for key, setting in FLAT_KEYS.items() if key in said}
    values |= {key: said[key] for key in ADAPTER_KEYS if key in said}
    for key, setting in (
        ("micro_batch_size", "per_device_train_batch_size"),
        ("grad_accum", "gradient_accumulation_steps"),
    ):
        if key in said:
            values[setting] = said[key]
    if said.get("precision"):
        values |= {"bf16": said["precision"] == "bf16", "fp16": said["precision"] == "fp16"}
    values |= _named_adapter(document, adapter_name)
    if values.get("target_modules") == "auto":
        values["target_modules"] = None
    return values


def _named_adapter(document: Document, name: str | None) -> dict[str, Any]:
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


def auto_batches(micro: int | str, steps: int | str, world: int) -> tuple[int, int]:
    """Rows of a batch and batches of a step for each of `world` processes, where either may be "auto".

    What is "auto" is chosen so that an optimizer step has 16 rows, whatever the number of processes.
    """
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
    """What the command line itself says: the same parser with every default left out."""
    parser = _Parser(ARGUMENTS, allow_abbrev=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        action.required = False
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [word.split("=")[0].lstrip("-") for word in unknown if word.startswith("-")]
        raise (
            _unknown(names, known, "command line")
            if names
            else UsageError(
                f"{' '.join(unknown)!r} stands alone on the command line.",
                hint="Write --key value.",
            )
        )
    return vars(found)


def _read_yaml(path: Path, parser: _Parser, known: Mapping[str, argparse.Action]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"It cannot be read: {error.strerror}.", path=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("It is not UTF-8.", path=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            f"It is not YAML: {getattr(error, 'problem', error)}.",
            path=path,
            line=mark.line + 1 if mark else None,
            column=mark.column + 1 if mark else None,
        ) from error
    if not isinstance(content, dict):
        raise ConfigError("It must be a mapping of settings to values.", path=path)
    environment = content.pop("env", None) or {}
    if not isinstance(environment, dict):
        raise ConfigError("env must be a mapping of names to values.", path=path)
    for name, value in environment.items():
        os.environ[str(name)] = str(value)
    if unknown := [str(key) for key in content if key not in known]:
        raise _unknown(unknown, known, str(path))
    typed, problems = {}, []
    for name, value in content.items():
        try:
            typed[name] = value if name in BATCHES and value == "auto" else _typed(parser, known[name], value)
        except argparse.ArgumentError as error:
            problems.append(f"{path}: {name}: {error.message.rstrip('.')}.")
    if problems:
        raise ConfigError("\n".join(problems))
    return typed


def _typed(parser: _Parser, action: argparse.Action, value: Any) -> Any:
    """A YAML value as its setting takes it: as it is, or as the same text on the command line would be read.

    Raises argparse.ArgumentError for a text that the command line would refuse.
    """
    if action.nargs == "+" and isinstance(value, list):
        return [parser._get_value(action, str(word)) for word in value]
    if type(value) in {get_origin(kind) or kind for kind in get_args(HINTS[action.dest])}:
        return value
    word = parser._get_value(action, str(value))
    return [word] if action.nargs == "+" else word


def _check_numbers(settings: Mapping[str, Setting]) -> None:
    said = {name: settings[name] for name in ABOVE_0 if name in settings and settings[name].value != "auto"}
    wrong = {name: setting for name, setting in said.items() if setting.value is None or not setting.value > 0}
    lines = [f"{setting.source}: {name} is {setting.value}; it is a number above 0." for name, setting in wrong.items()]
    if lines:
        raise UsageError("\n".join(lines))


def _unknown(names: list[str], known: Mapping[str, argparse.Action], where: str) -> ConfigError:
    lines = []
    for name in names:
        near = process.extractOne(name, known.keys(), scorer=JaroWinkler.similarity, score_cutoff=0.75)
        lines.append(f"{where}: there is no setting {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
    return ConfigError("\n".join(lines))


def _build(parser: _Parser, values: dict[str, Any]) -> tuple[Any, ...]:
    for action in parser._actions:
        value = values.get(action.dest)
        if action.choices and value is not None and str(value) not in map(str, action.choices):
            choices = ", ".join(map(str, action.choices))
            raise UsageError(f"{action.dest} is {value!r}.", hint=f"It is one of: {choices}.")
    parser.set_defaults_with_config(**values)
    try:
        return parser.parse_args_into_dataclasses(args=[])
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(
            f"The training settings do not go together: {' '.join(str(error).split())}",
            hint="Check the values in the YAML, the frontmatter and the command line.",
        ) from error
