"""The checkpoints in a run's output_dir: which one to resume from, when an older one may go, and whether the folder can
take more.

A checkpoint is written, then sealed (`seal`), and only then older ones are deleted (`rotate`): a kill at any point
leaves a whole one.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError
from trl import DPOConfig, SFTConfig

from dlm_trl.models.batching import is_out_of_memory
from dlm_trl.models.lineage import file_hash
from dlm_trl.models.ranks import is_lost_process
from dlm_trl.notes.errors import DlmWriteError, UsageError
from dlm_trl.notes.files import replace_file

Training: TypeAlias = SFTConfig | DPOConfig
SEAL = "seal.json"  # in a checkpoint
# A run can't go on if one of these has changed: the weights and their optimizer would not fit.
FIXED = (
    "base_model", "adapter", "lora_r", "lora_alpha", "target_modules", "quantization", "adalora_init_r", "adapter_from",
    "sharding",
)  # fmt: skip
SPARE = 20 * 2**20  # bytes for everything small
RESUME = "Free some space, then rerun with --resume_from_checkpoint true --overwrite true."


def checkpoints(output_dir: str) -> list[Path]:
    """All checkpoint-<step> folders, complete or not."""
    return [c for c in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", c.name) and c.is_dir()]


def last_checkpoint(output_dir: str) -> tuple[str | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each newer one that is not."""
    notices: list[str] = []
    for checkpoint in sorted(checkpoints(output_dir), key=_step, reverse=True):
        if (why := damage(checkpoint)) is None:
            return str(checkpoint), notices
        notices.append(f"{checkpoint} is skipped: {why}.")
    return None, notices


def remove_checkpoints(output_dir: str) -> None:
    """Delete the checkpoints of an earlier run."""
    _remove(checkpoints(output_dir))


def rotate(checkpoint: Path, keep: int | None, best: str | None) -> None:
    """Delete the oldest other checkpoints until `keep` are left; None keeps all. This one must be sealed.

    Checkpoints without a seal are deleted first. best: the one with the best measurement, if any; it is never deleted.
    """
    if not keep:
        return
    protected = {checkpoint, *([Path(best)] if best else [])}
    others = sorted({*checkpoints(str(checkpoint.parent))} - protected, key=_sealed_at)
    _remove(others[: max(0, len(others) + len(protected) - keep)])


def _remove(folders: list[Path]) -> None:
    for folder in folders:  # all seals first: after a kill, none of them is taken for whole
        (folder / SEAL).unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder)


def _sealed_at(checkpoint: Path) -> tuple[float, int]:
    """When it was sealed, 0 if it was not; and its step."""
    seal = checkpoint / SEAL
    return seal.stat().st_mtime if seal.exists() else 0.0, _step(checkpoint)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def bytes_needed(trainable: int, training: Training, adalora: bool) -> int:
    """Disk space for the checkpoints that are kept, the one being written, and the adapter itself, all in float32.

    A checkpoint holds the adapter and Adam's two moments, and for AdaLoRA three running means of importance.
    """
    kept = training.save_total_limit or 1
    copies = 6 if adalora else 3
    return trainable * 4 * (copies * (kept + 1) + 2) + SPARE


def check_output_dir(training: Training, needed: int) -> list[str]:
    """What is wrong with output_dir. needed: free bytes the run may take."""
    folder = Path(training.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return [f"{folder}: can't write to output_dir: {error.strerror}. Choose another output_dir."]
    # The checkpoints of a run that is resumed are among those that it needs space for.
    held = sum(file.stat().st_size for checkpoint in checkpoints(str(folder)) for file in checkpoint.rglob("*"))
    free = shutil.disk_usage(folder).free + held
    if free >= needed:
        return []
    return [
        f"{folder}: {free / 2**20:,.0f} MiB are free and the run may need {needed / 2**20:,.0f}. Free some space, "
        "choose another output_dir, or lower save_total_limit."
    ]


def find_checkpoint(training: Training, overwrite: bool) -> tuple[str | None, list[str]]:
    """The checkpoint that resume_from_checkpoint asks for, None to start from the base; and lines that say which it is
    and which damaged ones are skipped.

    Raises UsageError if no checkpoint is whole and overwrite isn't set, if a checkpoint given by path is damaged, and
    if output_dir has checkpoints of an earlier run that is neither resumed nor overwritten.
    """
    folder, wanted = training.output_dir, training.resume_from_checkpoint
    if wanted and wanted.lower() in ("true", "1", "yes"):
        checkpoint, notices = last_checkpoint(folder)
        if checkpoint:
            return checkpoint, [*notices, f"The run resumes from {checkpoint}."]
        if overwrite:
            return None, [*notices, f"{folder} has no whole checkpoint: the run starts from the beginning."]
        damaged = " ".join(notices)
        raise UsageError(f"{folder}: no checkpoint to resume from. {damaged}".rstrip(), "Start over: overwrite=true.")
    if wanted and wanted.lower() not in ("false", "0", "no"):
        if why := damage(Path(wanted)):
            raise UsageError(f"{wanted} can't be resumed: {why}.", "resume_from_checkpoint=true finds a whole one.")
        return wanted, [f"The run resumes from {wanted}."]
    if checkpoints(folder) and not overwrite:
        raise UsageError(
            f"{folder}: it holds checkpoints of an earlier run.",
            "Resume it (resume_from_checkpoint=true), start over (overwrite=true), or choose another output_dir.",
        )
    return None, []


def seal(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Record the hashes of a checkpoint's files, and the settings of its run.

    This is written last, when the files are on the disk, so a checkpoint that has it was written whole.
    """
    for file in filter(Path.is_file, checkpoint.rglob("*")):
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())
    hashes = {
        str(file.relative_to(checkpoint)): file_hash(file)
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != SEAL
    }
    record = {"files": hashes, "settings": dict(settings)}
    replace_file(checkpoint / SEAL, json.dumps({**record, "seal": _hash(record)}, indent=2).encode())


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if all its files are as they were written."""
    try:
        hashes = _seal_of(checkpoint)["files"]
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValueError):
        return f"{SEAL} is damaged"
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
            "Set them as they were, or start over: overwrite=true, without resume_from_checkpoint.",
        )
    until = checkpoint.name
    return [f"{name} is {value}; it was {recorded.get(name)} until {until}." for name, value in changed.items()]


def _seal_of(checkpoint: Path) -> dict[str, Any]:
    """What `seal` recorded. Raises OSError, and ValueError if the file has changed since."""
    record = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.pop("seal", None) != _hash(record):
        raise ValueError("its hash differs")
    return record


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


@contextmanager
def disk_errors(path: Path, what: str) -> Iterator[None]:
    """Raise a DlmError (DlmWriteError) if a library can't write below this path. what: a noun with its article.

    torch and safetensors raise errors of their own for a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_lost_process(error) or is_out_of_memory(error):
            raise
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        free = shutil.disk_usage(path if path.exists() else path.parent).free
        raise DlmWriteError(
            f"{what} can't be written: {why} ({free / 2**20:,.0f} MiB are free).", RESUME, path=path
        ) from error
