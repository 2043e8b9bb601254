"""What each synthesis run did for a document, one JSON line a run, in its store: `add_run(…)`, `read_runs(dlm_id)`.

A report shows where the teacher's pairs went. The file is only appended to, and a torn line is skipped.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dlm_trl.notes.files import locked
from dlm_trl.notes.journal import append, whole_lines
from dlm_trl.notes.store import synth_dir


@dataclass(frozen=True, slots=True)
class SynthRun:
    """A finished run. written: pairs and views in the replies; lost: how many of them each stage rejected, in order.

    at: when it ended. requests: also those that the ledger answered. failed, unparsed: requests without a reply, or
    without a readable one. tokens: of prompts and replies. stopped: why the run ended early.
    """

    at: str
    teacher: str
    judge: str | None
    requests: int
    from_ledger: int
    failed: int
    unparsed: int
    written: int
    lost: dict[str, int]
    kept: int
    tokens: int
    cost: float | None
    seconds: float
    stopped: str | None


def runs_path(dlm_id: str) -> Path:
    """The file of the document's runs."""
    return synth_dir(dlm_id) / "runs.jsonl"


def add_run(dlm_id: str, run: SynthRun) -> None:
    """Append a finished run. Raises DlmError (DlmWriteError) if the file can't be written."""
    path = runs_path(dlm_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        append(path, [asdict(run)])


def read_runs(dlm_id: str) -> list[SynthRun]:
    """The document's runs, oldest first.

    A line that isn't such a record, and a file that can't be read, is skipped: a report doesn't fail for it.
    """
    try:
        lines = list(whole_lines(runs_path(dlm_id)))
    except OSError:
        return []
    runs, reader = [], TypeAdapter(SynthRun)
    for line in lines:
        with suppress(ValidationError):
            runs.append(reader.validate_json(line))
    return runs
