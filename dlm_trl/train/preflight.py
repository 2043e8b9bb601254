"""Everything that would go wrong, found before a weight is loaded: base, template, rows, folder, disk, extras.

`prepare(configuration)` gives what the checks had to load anyway, or raises one DlmError with a line for each problem.
"""

import math
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from dlm_trl.models import tokenize
from dlm_trl.models.load import context_length, load_config, load_tokenizer
from dlm_trl.notes.errors import DlmError, MissingExtraError, PreflightError
from dlm_trl.notes.extras import require_extra
from dlm_trl.train.adapter import adapter_parameters, peft_config
from dlm_trl.train.config import Configuration
from dlm_trl.train.data import Rows, load_rows
from dlm_trl.train.rehearsal import pieces
from dlm_trl.train.skill import check

LEAST_STEPS = 48  # optimizer steps; a few dozen rows are not learned in three epochs
INCOMPLETE = "checkpoint-is-incomplete.txt"  # transformers leaves it in a checkpoint that it could not finish
EXTRAS = {"tensorboard": "tracking", "trackio": "tracking", "bitsandbytes": "bnb"}


@dataclass(frozen=True)
class Prepared:
    """What a run starts from: all small things, but no weights."""

    base: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    adapter: PeftConfig
    trainable: int
    rows: Rows
    checkpoint: str | None
    notes: list[str]


def prepare(configuration: Configuration) -> Prepared:
    """Check all that can be checked without weights. Raises DlmError; its text has one line for each problem."""
    problems: list[str] = []
    notes: list[str] = []
    base = tokenizer = rows = None
    trainable = 0
    try:
        base = load_config(configuration.adapter.base_model)
        tokenizer = load_tokenizer(configuration.adapter.base_model, configuration.training.chat_template_path)
    except DlmError as error:
        problems.append(str(error))
    try:
        rows = load_rows(configuration)
    except DlmError as error:
        problems.append(str(error))
    if base and tokenizer:
        notes += _fit(configuration, base, tokenizer)
        try:
            trainable = adapter_parameters(base, peft_config(configuration.adapter))
        except ValueError as error:
            problems.append(f"The adapter does not fit the base: {' '.join(str(error).split())}")
    if rows and (note := _epochs(configuration, sum(len(part) for part in rows.parts()))):
        notes.append(note)
    if base and tokenizer and rows:
        problems += [text for part in rows.parts() for text in tokenize.preflight(tokenizer, base, part)]
        problems += check(configuration, tokenizer, has_rows=bool(rows.parts()))
    if tokenizer and configuration.notes.rehearsal_text:
        try:
            pieces(configuration.notes.rehearsal_text, tokenizer)
        except ValueError as error:
            problems.append(f"rehearsal_text: {error}.")
    problems += [*_extras(configuration), *_combinations(configuration)]
    checkpoint, folder_problems = _folder(configuration, bytes_needed(trainable, configuration))
    problems += folder_problems
    if problems:
        raise PreflightError("\n".join(dict.fromkeys(problems)))
    return Prepared(base, tokenizer, peft_config(configuration.adapter), trainable, rows, checkpoint, notes)


def bytes_needed(trainable: int, configuration: Configuration) -> int:
    """Room for the checkpoints that are kept at once, one being written, and the adapter itself, all in float32.

    A checkpoint holds the adapter and Adam's two moments of it, with AdaLoRA three means of its importance besides.
    """
    kept = configuration.training.save_total_limit or 1
    each = 6 if configuration.adapter.adapter == "adalora" else 3
    return trainable * 4 * (each * (kept + 1) + 2) + 20 * 2**20


def checkpoints(output_dir: str) -> list[Path]:
    """The checkpoints in a run's folder, whole or not; a folder that somebody called checkpoint-best is none."""
    return [c for c in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", c.name) and c.is_dir()]


def last_checkpoint(output_dir: str) -> str | None:
    """The newest whole checkpoint in a run's folder; one that was cut off while it was written does not count."""
    whole = [c for c in checkpoints(output_dir) if not (c / INCOMPLETE).exists()]
    return str(max(whole, key=lambda c: int(c.name.split("-")[1]))) if whole else None


def _fit(configuration: Configuration, base: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Lower what the base cannot do and give the tokenizer a pad token; returns what was done."""
    notes = []
    context = context_length(base)
    if context and configuration.training.max_length > context:
        configuration.change("max_length", context, f"lowered to the {context} positions that the base has")
        notes.append(f"max_length is lowered to the {context} positions that the base has.")
    token, note = tokenize.pad_token(tokenizer)
    tokenizer.pad_token = token
    # The tokenizer has its template now; the trainer must not fetch it again (and resize the model for it).
    configuration.training.chat_template_path = None
    return [*notes, *([note] if note else [])]


def _epochs(configuration: Configuration, rows: int) -> str | None:
    """Where nobody sets the number of epochs, as many as `LEAST_STEPS` take; returns what was done."""
    training = configuration.training
    if configuration.settings["num_train_epochs"].source != "default" or training.max_steps > 0 or not rows:
        return None
    step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    epochs = math.ceil(LEAST_STEPS / math.ceil(rows / step))
    if epochs <= training.num_train_epochs:
        return None
    configuration.change("num_train_epochs", epochs, f"raised so that {rows} rows make {LEAST_STEPS} steps")
    return f"num_train_epochs is raised to {epochs}, so that {rows} rows make {LEAST_STEPS} steps."


def _extras(configuration: Configuration) -> list[str]:
    training = configuration.training
    wanted = {name for name in training.report_to if name in EXTRAS}
    if configuration.adapter.quantization or "8bit" in training.optim or "bnb" in training.optim:
        wanted.add("bitsandbytes")
    problems = []
    for package in sorted(wanted):
        try:
            require_extra(EXTRAS[package], "This run", package)
        except MissingExtraError as error:
            problems.append(str(error))
    return problems


def _combinations(configuration: Configuration) -> list[str]:
    adapter, training, notes = configuration.adapter, configuration.training, configuration.notes
    problems = []
    if adapter.adapter == "qlora" and adapter.quantization is None:
        problems.append("adapter qlora needs quantization 4bit or 8bit.")
    if adapter.adapter == "adalora" and training.deepspeed_plugin is not None:
        problems.append(
            "adalora reads gradients, which DeepSpeed keeps to itself: use lora, or launch without DeepSpeed."
        )
    if adapter.adapter == "adalora" and not 0 <= adapter.adalora_warmup < 1 - adapter.adalora_final <= 1:
        problems.append("adalora_warmup and adalora_final leave no steps to prune in: together they must be below 1.")
    if notes.rehearsal < 0:
        problems.append(f"rehearsal is {notes.rehearsal}; it is a weight, 0 for none.")
    if notes.rehearsal_text and not notes.rehearsal:
        problems.append("rehearsal_text is set, and rehearsal, its weight, is 0: nothing would be rehearsed.")
    if notes.questions and not notes.notes:
        problems.append("questions are asked about a document, and no notes are set.")
    if notes.world_size is not None and notes.world_size != training.world_size:
        problems.append(f"The run has {training.world_size} processes, and world_size asks for {notes.world_size}.")
    return problems


def _folder(configuration: Configuration, needed: int) -> tuple[str | None, list[str]]:
    """The checkpoint to resume from, and what is wrong with output_dir."""
    training = configuration.training
    folder = Path(training.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return None, [f"{folder}: output_dir cannot be written: {error.strerror}. Choose another output_dir."]
    problems = []
    free = shutil.disk_usage(folder).free
    if free < needed:
        problems.append(
            f"{folder}: {free / 2**20:,.0f} MiB are free and the run may need {needed / 2**20:,.0f}. Free some, choose "
            "another output_dir, or lower save_total_limit."
        )
    asked = training.resume_from_checkpoint
    if asked and asked.lower() in ("true", "1", "yes"):
        checkpoint = last_checkpoint(training.output_dir)
        if checkpoint is None:
            problems.append(f"{folder}: there is no checkpoint to resume from. Leave resume_from_checkpoint out.")
        return checkpoint, problems
    if asked and asked.lower() not in ("false", "0", "no"):
        if not (Path(asked) / "trainer_state.json").is_file():
            problems.append(f"{asked}: this is no checkpoint (trainer_state.json is missing).")
        return asked, problems
    if checkpoints(training.output_dir) and not configuration.notes.overwrite:
        problems.append(
            f"{folder}: it holds checkpoints of an earlier run. Go on with it (resume_from_checkpoint=true), start "
            "over (overwrite=true), or choose another output_dir."
        )
    return None, problems
