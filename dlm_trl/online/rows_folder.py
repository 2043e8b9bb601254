"""A folder of rows that were written before training, as `offline` writes and reads it. It holds

settings.json                          what decides the rows
data/rows-00000-of-00002.jsonl         the rows of each shard, in the order of the steps
progress-00000-of-00002.jsonl          the finished steps of each shard, and how far its rows reached then
README.md                              the dataset card
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from dlm_trl.notes.errors import SettingsError
from dlm_trl.notes.files import replace_file, write_error
from dlm_trl.notes.journal import whole_lines

_SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True)
class TaskRowsSettings:
    """What decides the rows, and over how many shards they are spread.

    stages: the task's options; each stage gets as many steps as the others, in this order, for what an online run's
    curriculum goes by is not known here. vocabulary: of the base's tokenizer, see `vocabulary`. teacher: "base" or a
    reference, as `teachers.open` takes it. files: name and digest of what else was read, such as notes.
    """

    task: str
    stages: list[dict[str, Any]]
    n: int
    rows_per_step: int
    seed: int
    attempts: int
    max_length: int
    base_model: str
    base_revision: str
    vocabulary: str
    dtype: str
    quantization: str | None
    teacher: str
    teacher_revision: str
    files: list[str]
    shards: int

    @property
    def steps(self) -> int:
        return -(-self.n // self.rows_per_step)

    def indices(self, step: int) -> range:
        """The rows of a step; the last one may have fewer."""
        return range(min(self.rows_per_step, self.n - step * self.rows_per_step))

    def stage(self, step: int) -> int:
        return step * len(self.stages) // self.steps

    def steps_of(self, shard: int) -> range:
        """Whole steps, and neighbours: all shards one behind the other are what a single one would be."""
        return range(self.steps * shard // self.shards, self.steps * (shard + 1) // self.shards)


class Progress(NamedTuple):
    """What has been written so far. tokens: of the rows; new_tokens: that the author wrote, for rejected drafts too."""

    steps: int
    rows: int
    tokens: int
    new_tokens: int
    rejected: Counter[str]
    bytes: int


def claim(folder: Path, settings: TaskRowsSettings) -> TaskRowsSettings:
    """Make this a folder for rows of these settings, where it is none yet; gives the settings, with its own `shards`.

    Raises DlmError: SettingsError for a folder of other settings or with other files, DlmWriteError.
    """
    if (folder / _SETTINGS).exists():
        there = read_settings(folder)
        now = replace(settings, shards=there.shards)  # as many as the run that began it had processes
        pairs = {name: (getattr(there, name), getattr(now, name)) for name in asdict(now)}
        if other := [f"{name} is {a!r} there and {b!r} now" for name, (a, b) in pairs.items() if a != b]:
            raise SettingsError(
                f"This folder was begun with other settings: {', '.join(other)}.",
                hint="Go on with the same settings, or choose another folder.",
                path=folder,
            )
        return now
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error.strerror or str(error), "Choose another folder.") from None
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise SettingsError(
            "This folder holds other files already.",
            hint="Choose an empty or a new folder.",
            path=folder,
        )
    replace_file(folder / _SETTINGS, (json.dumps(asdict(settings), indent=1) + "\n").encode())
    return settings


def read_settings(folder: str | os.PathLike[str]) -> TaskRowsSettings:
    """What the rows of a folder are. Raises DlmError (SettingsError) for one that holds no such rows."""
    file = Path(folder) / _SETTINGS
    try:
        return TaskRowsSettings(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        raise SettingsError(
            "This folder holds no rows of a task: there is no settings.json that says how they were written.",
            hint="Write them with recipes/synthesize_task.py.",
            path=Path(folder),
        ) from None


def progress(folder: Path, settings: TaskRowsSettings, shard: int | None = None) -> Progress:
    """What has been written so far, of one shard or of all."""
    numbers = range(settings.shards) if shard is None else [shard]
    files = [shard_files(folder, settings, number)[1] for number in numbers]
    shards = [[json.loads(line) for line in whole_lines(file)] for file in files]
    lines = [line for shard in shards for line in shard]
    rejected = sum((Counter(line["rejected"]) for line in lines), Counter())
    sums = [sum(line[name] for line in lines) for name in ("rows", "tokens", "new_tokens")]
    return Progress(len(lines), *sums, rejected, sum(shard[-1]["bytes"] for shard in shards if shard))


def shard_files(folder: Path, settings: TaskRowsSettings, shard: int) -> tuple[Path, Path]:
    """A shard's rows, and its progress."""
    name = f"{shard:05d}-of-{settings.shards:05d}.jsonl"
    return folder / "data" / f"rows-{name}", folder / f"progress-{name}"


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that change with the tokens that ids stand for."""
    return digest(json.dumps(sorted(tokenizer.get_vocab().items())).encode())


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()
