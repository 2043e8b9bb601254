"""Task rows on disk: the rows of an online run, written before training instead of during it.

    settings = claim(folder, settings)                                # fails if the folder has other content
    write_shard(folder, settings, 0, tasks, author, tokenizer)        # resumes; call it for each shard
    finish(folder, settings)                                          # writes the dataset card
    rows, settings = load_rows(folder, tokenizer), read_settings(folder)

See `recipes/synthesize_task.py`. Row i is the row that an online run with the same seed has at step i // rows_per_step,
index i % rows_per_step; rows whose attempts all failed are missing. `rows_folder` describes the files.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from pyarrow.compute import list_value_length
from transformers import PreTrainedTokenizerBase

from dlm_trl.models.chat import require_template
from dlm_trl.notes.errors import NoRowsError, SettingsError, TeacherError, TokenizerError, UsageError
from dlm_trl.notes.files import locked, replace_file
from dlm_trl.notes.journal import append
from dlm_trl.online.authors import Author
from dlm_trl.online.dataset_card import card, counts, features
from dlm_trl.online.encode import Encoded, encode
from dlm_trl.online.rows import Draft, write_rows
from dlm_trl.online.rows_folder import TaskRowsSettings, progress, read_settings, shard_files, vocabulary
from dlm_trl.tasks.protocol import Example, Reject, Task, smoke_test

_TRAINED = ["input_ids", "labels"]


def check_task(task: Task, settings: TaskRowsSettings, tokenizer: PreTrainedTokenizerBase) -> None:
    """Run the task once, before any weights are loaded.

    Raises DlmError: TaskError if the task raises anything, UsageError and ChatTemplateError if this tokenizer can't
    encode its rows.
    """
    prompts, examples = smoke_test(task, settings.task, settings.seed)
    if settings.teacher == "base" and not all(isinstance(prompt, str) for prompt in prompts):
        require_template(tokenizer, "The base")
    for example in examples:
        _encode(example, tokenizer, settings.max_length)


def write_shard(
    folder: Path,
    settings: TaskRowsSettings,
    shard: int,
    tasks: Sequence[Task],
    author: Author,
    tokenizer: PreTrainedTokenizerBase,
    on_step: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> None:
    """Write the missing steps of a shard; `tasks` has one task per stage.

    A step is written completely or not at all, and survives a kill. on_step is called with its progress record. Raises
    DlmError: TeacherError if the author failed (rerun to repeat the step), DlmWriteError if another process is writing
    this shard, SettingsError if a file was truncated.
    """
    rows_file, progress_file = shard_files(folder, settings, shard)
    rows_file.parent.mkdir(exist_ok=True)
    with locked(rows_file, seconds=0):
        done = progress(folder, settings, shard)
        _remove_unfinished_step(rows_file, done.bytes)
        for step in settings.steps_of(shard)[done.steps :]:
            task = tasks[settings.stage(step)]
            drafts, new_tokens = write_rows(
                task,
                author,
                partial(_encode, tokenizer=tokenizer, max_length=settings.max_length),
                seed=settings.seed,
                step=step,
                indices=settings.indices(step),
                attempts=settings.attempts,
            )
            _check_replies(drafts, step, settings)
            kept = sorted((draft for draft in drafts if draft.encoded), key=lambda draft: draft.index)
            length = append(rows_file, [_row(draft, task, step) for draft in kept], ensure_ascii=False)
            rejected = Counter(draft.outcome.reason for draft in drafts if isinstance(draft.outcome, Reject))
            record = {
                "step": step,
                "rows": len(kept),
                "tokens": sum(len(draft.encoded.input_ids) for draft in kept if draft.encoded),
                "new_tokens": new_tokens,
                "rejected": dict(sorted(rejected.items())),
                "bytes": length,
            }
            append(progress_file, [record], ensure_ascii=False)  # after its rows: a step listed here is complete
            on_step(record)


def finish(folder: Path, settings: TaskRowsSettings) -> None:
    """Write the dataset card, unless it exists; call it once all rows are written."""
    path = folder / "README.md"
    if not path.exists():
        first = next(_first_rows(_rows_files(folder, settings)), None)
        replace_file(path, card(settings, progress(folder, settings), first).encode())


def load_rows(
    folder: str | os.PathLike[str], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> Dataset:
    """The rows as `input_ids` and `labels`, in the order of an online run.

    tokenizer: of the base model to train. max_length: of the training, in tokens. Raises DlmError: SettingsError if the
    folder has no rows, is incomplete, or has rows longer than max_length; TokenizerError for rows of another
    vocabulary; NoRowsError if all rows were rejected.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    done = progress(folder, settings)
    if done.steps < settings.steps:
        raise SettingsError(
            f"Only {done.steps} of {settings.steps} steps of rows have been written.",
            hint="Rerun the command that writes them to resume.",
            path=folder,
        )
    if vocabulary(tokenizer) != settings.vocabulary:
        raise TokenizerError(
            f"The rows were tokenised for {settings.base_model}, but the base to train has another vocabulary.",
            hint=f"Train {settings.base_model}, or write rows for the other base (--base_model).",
            path=folder,
        )
    if not done.rows:
        raise NoRowsError(
            f"There are no rows to train on: all were rejected ({counts(done.rejected)}).",
            hint="Use another teacher, or fix the task.",
            path=folder,
        )
    files = _rows_files(folder, settings)
    columns = features(next(_first_rows(files)))
    rows = load_dataset("json", data_files=[str(file) for file in files], features=columns, split="train")
    lengths = list_value_length(rows.data["input_ids"]).to_pylist()
    longer = 0 if max_length is None else sum(length > max_length for length in lengths)
    if longer:
        raise SettingsError(
            f"{longer:,} of {len(rows):,} rows are longer than max_length, {max_length} tokens.",
            hint=f"Train with a max_length of {max(lengths)}, or write new rows with --max_length {max_length}.",
            path=folder,
        )
    order = sorted(zip(rows["step"], lengths, rows["index"], range(len(rows)), strict=True))
    return rows.select([row for *_, row in order]).select_columns(_TRAINED)


def _encode(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded | Reject:
    if example.loss != "full":
        raise UsageError(
            f"The task sets loss={example.loss!r}, but rows on disk are trained with the trainer's standard loss.",
            hint="Use loss='full', or train online.",
        )
    return encode(example, tokenizer, max_length)


def _check_replies(drafts: Sequence[Draft], step: int, settings: TaskRowsSettings) -> None:
    answered = {
        draft.index
        for draft in drafts
        if not (isinstance(draft.outcome, Reject) and draft.outcome.reason == "no reply")
    }
    if missing := {draft.index for draft in drafts} - answered:
        raise TeacherError(
            f"{settings.teacher} gave no reply for {len(missing)} rows of step {step}, asked "
            f"{settings.attempts} times each.",
            hint="Check that it can be reached, then rerun the same command to resume at this step.",
        )


def _row(draft: Draft, task: Task, step: int) -> dict[str, Any]:
    record = draft.record(task, step)
    del record["rejected"]  # null in all written rows
    return record


def _remove_unfinished_step(rows_file: Path, length: int) -> None:
    """Create the file, or truncate it to the rows of its finished steps."""
    with rows_file.open("ab") as file:
        if file.tell() < length:
            raise SettingsError(
                "The file is shorter than when its last step was written.",
                hint="Delete its folder and start again.",
                path=rows_file,
            )
        file.truncate(length)


def _rows_files(folder: Path, settings: TaskRowsSettings) -> list[Path]:
    return [shard_files(folder, settings, shard)[0] for shard in range(settings.shards)]


def _first_rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The first row of each file that isn't empty."""
    for file in files:
        with file.open("rb") as stream:
            if line := stream.readline():
                yield json.loads(line)
