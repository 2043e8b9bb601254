"""The one error of the house: what is wrong, where, and what to do next.

`str(error)` reads like a compiler's message, `notes.dlm:12:1: what is wrong. What to do.`, and is meant for the user's
eyes. Callers tell errors apart by `kind`, which for documents is the format's own name for the failure:
`DlmEncodingError`, `FrontmatterError`, `SchemaValidationError`, `DlmVersionError`, `UnsupportedMigrationError`,
`FenceError`, `InstructionParseError`, `PreferenceParseError`, and `DlmReadError` for a file that cannot be opened.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any


class DlmError(Exception):
    """Something the user can put right.

    line is the 1-based line of the file, column the 1-based column (0: the line as a whole); both are None where no
    line applies. section_line is the line inside a section's content (1-based), set only by errors about
    question/answer and preference blocks.
    """

    def __init__(
        self,
        *,
        kind: str,
        message: str,
        path: Path | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
        section_line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.path = path
        self.line = line
        self.column = column
        self.hint = hint
        self.section_line = section_line

    def __str__(self) -> str:
        place = [str(self.path)] if self.path else []
        if self.line:
            place.append(str(self.line) if self.path else f"line {self.line}")
            if self.column:
                place.append(str(self.column))
        text = f"{':'.join(place)}: {self.message}" if place else self.message
        return f"{text} {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception with keyword-only arguments does not pickle by itself, and worker processes send theirs home.
        return partial(DlmError, **self.__dict__), ()
