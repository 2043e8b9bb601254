"""What `check` reports: a `Finding`, and how lists of them are shown as text, JSON, and annotations of GitHub
Actions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from dlm_trl.notes.errors import DlmError

REFUSED = "The reader refuses the file."


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing wrong in a file: where, what, why it matters, and what to do.

    line is the 1-based line of the file, column the 1-based column (0: the line as a whole). rule is an error kind of
    the format (`FenceError`, …) for what the reader refuses, and a lower-case name for what it would silently
    misread.
    """

    path: Path
    line: int
    column: int
    rule: str
    message: str
    why: str
    fix: str


def finding_of(error: DlmError, path: Path, why: str = REFUSED) -> Finding:
    """The finding that stands for an error; one that belongs to no line is shown at the first."""
    fix = error.hint or "Correct it."
    return Finding(path, error.line or 1, error.column or 0, error.kind, error.message, why, fix)


def as_text(findings: Iterable[Finding]) -> str:
    """Three lines for each finding, made for reading."""
    return "\n".join(
        f"{f.path}:{f.line}:{f.column}: {f.message} [{f.rule}]\n    why: {f.why}\n    fix: {f.fix}" for f in findings
    )


def as_json(findings: Iterable[Finding]) -> str:
    """One JSON list with an object for each finding, keys as the fields of `Finding`."""
    return json.dumps([asdict(f) | {"path": str(f.path)} for f in findings], indent=2, ensure_ascii=False)


def as_github(findings: Iterable[Finding]) -> str:
    """Workflow commands, which GitHub Actions shows as annotations in the file."""
    return "\n".join(
        f"::error file={_property(str(f.path))},line={f.line},col={max(f.column, 1)},title={_property(f.rule)}"
        f"::{_data(f'{f.message} {f.why} {f.fix}')}"
        for f in findings
    )


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
