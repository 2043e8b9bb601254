"""The checkpoints in a run's output_dir: which one to resume from, and whether the folder can take more."""

import re
import shutil
import tempfile
from pathlib import Path

from trl import SFTConfig

INCOMPLETE = "checkpoint-is-incomplete.txt"  # transformers leaves it in a checkpoint that it could not finish
SPARE = 20 * 2**20  # bytes for everything small


def checkpoints(output_dir: str) -> list[Path]:
    """All checkpoint-<step> folders, complete or not."""
    return [c for c in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", c.name) and c.is_dir()]


def last_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint that was written completely."""
    complete = [c for c in checkpoints(output_dir) if not (c / INCOMPLETE).exists()]
    return str(max(complete, key=lambda c: int(c.name.split("-")[1]))) if complete else None


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


def check_output_dir(training: SFTConfig, overwrite: bool, needed: int) -> tuple[str | None, list[str]]:
    """The checkpoint to resume from, and what is wrong with output_dir. needed: free bytes the run may take."""
    folder = Path(training.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return None, [f"{folder}: can't write to output_dir: {error.strerror}. Choose another output_dir."]
    problems = []
    free = shutil.disk_usage(folder).free
    if free < needed:
        problems.append(
            f"{folder}: {free / 2**20:,.0f} MiB are free and the run may need {needed / 2**20:,.0f}. Free some space, "
            "choose another output_dir, or lower save_total_limit."
        )
    checkpoint, problem = _to_resume(training, overwrite)
    return checkpoint, [*problems, *([problem] if problem else [])]


def _to_resume(training: SFTConfig, overwrite: bool) -> tuple[str | None, str | None]:
    """The checkpoint that resume_from_checkpoint names, and what is wrong with it."""
    folder, wanted = training.output_dir, training.resume_from_checkpoint
    if wanted and wanted.lower() in ("true", "1", "yes"):
        checkpoint = last_checkpoint(folder)
        missing = f"{folder}: no checkpoint to resume from. Leave resume_from_checkpoint out."
        return checkpoint, None if checkpoint else missing
    if wanted and wanted.lower() not in ("false", "0", "no"):
        is_checkpoint = (Path(wanted) / "trainer_state.json").is_file()
        return wanted, None if is_checkpoint else f"{wanted}: not a checkpoint (trainer_state.json is missing)."
    if checkpoints(folder) and not overwrite:
        return None, (
            f"{folder}: it holds checkpoints of an earlier run. Resume it (resume_from_checkpoint=true), start over "
            "(overwrite=true), or choose another output_dir."
        )
    return None, None
