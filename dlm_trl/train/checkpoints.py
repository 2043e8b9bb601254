"""The checkpoints in a run's output_dir: which one to resume from, and whether the folder can take more."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl import SFTConfig

from dlm_trl.models.lineage import file_hash
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.files import replace_file

SEAL = "seal.json"  # in a checkpoint
# A run can't go on if one of these has changed: the weights and their optimizer would not fit.
FIXED = ("base_model", "adapter", "lora_r", "lora_alpha", "target_modules", "quantization", "adalora_init_r")
SPARE = 20 * 2**20  # bytes for everything small


def checkpoints(output_dir: str) -> list[Path]:
    """All checkpoint-<step> folders, complete or not."""
    return [c for c in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", c.name) and c.is_dir()]


def last_checkpoint(output_dir: str) -> tuple[str | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that is not."""
    notices: list[str] = []
    for checkpoint in sorted(checkpoints(output_dir), key=lambda c: int(c.name.split("-")[1]), reverse=True):
        if (why := damage(checkpoint)) is None:
            return str(checkpoint), notices
        notices.append(f"{checkpoint} is skipped: {why}.")
    return None, notices


def remove_checkpoints(output_dir: str) -> None:
    """Delete the checkpoints of an earlier run."""
    for checkpoint in checkpoints(output_dir):
        shutil.rmtree(checkpoint)


def bytes_needed(trainable: int, training: SFTConfig, adalora: bool) -> int:
    """Disk space for the checkpoints that are kept, the one being written, and the adapter itself, all in float32.

    A checkpoint holds the adapter and Adam's two moments, and for AdaLoRA three running means of importance.
    """
    kept = training.save_total_limit or 1
    copies = 6 if adalora else 3
    return trainable * 4 * (copies * (kept + 1) + 2) + SPARE


def check_output_dir(training: SFTConfig, needed: int) -> list[str]:
    """What is wrong with output_dir. needed: free bytes the run may take."""
    folder = Path(training.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return [f"{folder}: can't write to output_dir: {error.strerror}. Choose another output_dir."]
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return []
    return [
        f"{folder}: {free / 2**20:,.0f} MiB are free and the run may need {needed / 2**20:,.0f}. Free some space, "
        "choose another output_dir, or lower save_total_limit."
    ]


def find_checkpoint(training: SFTConfig, overwrite: bool) -> tuple[str | None, list[str]]:
    """The checkpoint that resume_from_checkpoint asks for, None to start from the base; and a line for each damaged one
    that is skipped.

    Raises UsageError if there is none, if the one that is named is damaged, and for output_dir with checkpoints of an
    earlier run that is neither resumed nor overwritten.
    """
    folder, wanted = training.output_dir, training.resume_from_checkpoint
    if wanted and wanted.lower() in ("true", "1", "yes"):
        checkpoint, notices = last_checkpoint(folder)
        if checkpoint is None:
            damaged = " ".join(notices)
            raise UsageError(
                f"{folder}: no checkpoint to resume from. {damaged}".rstrip(), "Start over: overwrite=true."
            )
        return checkpoint, notices
    if wanted and wanted.lower() not in ("false", "0", "no"):
        if why := damage(Path(wanted)):
            raise UsageError(f"{wanted} can't be resumed: {why}.", "resume_from_checkpoint=true finds a whole one.")
        return wanted, []
    if checkpoints(folder) and not overwrite:
        raise UsageError(
            f"{folder}: it holds checkpoints of an earlier run.",
            "Resume it (resume_from_checkpoint=true), start over (overwrite=true), or choose another output_dir.",
        )
    return None, []


def seal(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Record the hashes of a checkpoint's files, and the settings of its run.

    This is written last, so a checkpoint that has it was written whole.
    """
    hashes = {
        str(file.relative_to(checkpoint)): file_hash(file)
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != SEAL
    }
    record = {"files": hashes, "settings": dict(settings)}
    replace_file(checkpoint / SEAL, json.dumps(record, indent=2).encode())


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if all its files are as they were written."""
    try:
        hashes = _seal_of(checkpoint)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it was not written to its end"
    for name, recorded in hashes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file_hash(file) != recorded:
            return f"{name} is damaged"
    return None


def compare_settings(checkpoint: Path, settings: Mapping[str, Any]) -> list[str]:
    """A line for each setting that has changed since the checkpoint, if the run can go on all the same.

    Raises UsageError for a changed setting that the checkpoint's weights depend on.
    """
    recorded = _seal_of(checkpoint)["settings"]
    changed = {name: value for name, value in settings.items() if recorded.get(name) != value}
    fixed = [f"{name} {recorded.get(name)}, now {value}" for name, value in changed.items() if name in FIXED]
    if fixed:
        raise UsageError(
            f"{checkpoint} can't be resumed with other settings than it was made with: {'; '.join(fixed)}.",
            "Set them as they were, or start over: overwrite=true.",
        )
    until = checkpoint.name
    return [f"{name} is {value}; it was {recorded.get(name)} until {until}." for name, value in changed.items()]


def _seal_of(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")))
