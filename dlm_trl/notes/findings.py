"""The results of `check`: `Finding`, and lists of them as text, JSON, or GitHub Actions annotations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.escape import printable_json

REFUSED = "The parser rejects the file."
HINTS = frozenset({"other-dialect", "pair-in-prose", "sources-not-notes"})  # rules that may well be meant


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One problem in a file: where, what, why it matters, and how to fix it.

    line: 1-based file line. column: 1-based, 0 for the whole line. rule: the exception's name (`FenceError`, …) if the
    parser rejects the file, otherwise a lower-case name such as `near-fence`.
    """

    path: Path
    line: int
    column: int
    rule: str
    message: str
    why: str
    fix: str

    @property
    def is_hint(self) -> bool:
        """Whether the file is fine, and may still not be what was meant."""
        return self.rule in HINTS


def finding_of(error: DlmError, path: Path, why: str = REFUSED) -> Finding:
    """The finding for an error, at line 1 if the error has no line."""
    fix = error.hint or "Correct it."
    return Finding(path, error.line or 1, error.column or 0, error.kind, error.message, why, fix)


def as_text(findings: Iterable[Finding]) -> str:
    """Three lines per finding, for people."""
    return "\n".join(
        f"{f.path}:{f.line}:{f.column}: {f.message} [{f.rule}]\n    why: {f.why}\n    fix: {f.fix}" for f in findings
    )


def as_json(findings: Iterable[Finding]) -> str:
    """A JSON list with one object per finding, keyed by the fields of `Finding`."""
    return printable_json([asdict(f) | {"path": str(f.path)} for f in findings], indent=2)


def as_github(findings: Iterable[Finding]) -> str:
    """Workflow commands, which GitHub Actions shows as annotations."""
    lines = []
    for f in findings:
        place = f"file={_property(str(f.path))},line={f.line},col={max(f.column, 1)},title={_property(f.rule)}"
        lines.append(f"::{'notice' if f.is_hint else 'error'} {place}::{_data(f'{f.message} {f.why} {f.fix}')}")
    return "\n".join(lines)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
