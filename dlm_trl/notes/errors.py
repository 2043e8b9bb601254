"""Errors that users see: `DlmError` and its subclasses. Each says what is wrong, where, and what to do next.

`str(error)` reads like a compiler message: `notes.dlm:12:1: what is wrong. What to do.` The command line prints it
without a traceback. It has no control characters, and no error contains a key or a password. Catch a subclass
(`except UsageError`) or all of them (`except DlmError`).

The subclasses of `DocumentError` carry the names that the format gives to its failures.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from dlm_trl.notes.escape import printable, redact


class DlmError(Exception):
    """A problem the user can fix.

    line: 1-based line in the file. column: 1-based column, 0 for the whole line. Both are None when no line applies.
    section_line: 1-based line within a section's content; only errors in question/answer and preference blocks have it.
    """

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        path: Path | None = None,
        line: int | None = None,
        column: int | None = None,
        section_line: int | None = None,
    ) -> None:
        self.message = redact(message)
        self.hint = redact(hint) if hint else hint
        super().__init__(self.message)
        self.path = path
        self.line = line
        self.column = column
        self.section_line = section_line

    @property
    def kind(self) -> str:
        """The name of the class, as findings and JSON output show it."""
        return type(self).__name__

    def __str__(self) -> str:
        place = [str(self.path)] if self.path else []
        if self.line:
            place.append(str(self.line) if self.path else f"line {self.line}")
            if self.column:
                place.append(str(self.column))
        text = f"{':'.join(place)}: {self.message}" if place else self.message
        return printable(redact(f"{text} {self.hint}" if self.hint else text))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only arguments don't pickle by default, and worker processes send theirs back.
        return partial(type(self), **vars(self)), ()


class UsageError(DlmError):
    """A command, argument or setting that can't work as given; the command line exits with 2."""


class ConfigError(DlmError):
    """A YAML file of settings that can't be read, or has unknown settings or wrong values."""


class PreflightError(DlmError):
    """A run that would fail; one line per problem, found before any weights are loaded."""


class MissingExtraError(DlmError):
    """An optional dependency that isn't installed."""


class ProcessError(DlmError):
    """A process of a run that was killed, or can't reach the others."""


# A document, and what is kept for it.


class DocumentError(DlmError):
    """A `.dlm` file that breaks the format."""


class DlmEncodingError(DocumentError):
    """Not UTF-8."""


class FrontmatterError(DocumentError):
    """Frontmatter that is missing, not closed or not YAML."""


class SchemaValidationError(DocumentError):
    """Frontmatter with unknown keys or wrong values."""


class DlmVersionError(DocumentError):
    """A format version newer than this package."""


class UnsupportedMigrationError(DocumentError):
    """A format version too old to read."""


class FenceError(DocumentError):
    """A malformed section fence or marker."""


class InstructionParseError(DocumentError):
    """A malformed question/answer block."""


class PreferenceParseError(DocumentError):
    """A malformed preference block."""


class DlmReadError(DlmError):
    """A file that can't be opened or read."""


class DlmWriteError(DlmError):
    """A file that can't be written, is locked, or changed since it was read."""


class EditError(DlmError):
    """An edit that would break the document."""


class SourceError(DlmError):
    """A source directive whose files can't be used."""


class StoreError(DlmError):
    """The document's store (adapters, ledger, staged pairs) can't be read or written."""


# Rows.


class RowsError(DlmError):
    """Rows that can't be made from the documents."""


class NoDocumentsError(RowsError):
    """No documents among the data files."""


class NoRowsError(RowsError):
    """Documents or a task without rows to train on."""


class UndeclaredAdapterError(RowsError):
    """A section for an adapter that the document doesn't declare."""


class QuestionsError(DlmError):
    """A questions file that can't be used."""


# Models.


class BaseModelError(DlmError):
    """A base model that can't be found, loaded or used."""


class TokenizerError(DlmError):
    """A tokenizer that doesn't fit the task or the rows."""


class ChatTemplateError(DlmError):
    """A chat template that is missing, or can't render the conversation."""


class AdapterError(DlmError):
    """An adapter that can't be found, loaded or used."""


class OutOfMemoryError(DlmError):
    """A model that doesn't fit into memory together with what it works on."""


class TeacherError(DlmError):
    """A teacher that can't be reached or gave no reply."""


class TaskError(DlmError):
    """A task that raised, or returned something unusable."""


class SettingsError(DlmError):
    """A folder of task rows that was written with other settings, or is incomplete."""


# Synthesis.


class PromptError(DlmError):
    """A prompt template that can't be read or rendered."""


class LedgerError(DlmError):
    """A ledger that is damaged, in use, or belongs to another document."""


class StagingError(DlmError):
    """Staged pairs that can't be read, applied or taken back."""


class ReviewError(DlmError):
    """A decision on the review page that can't be carried out, or a page that can't be served."""


# Export.


class ExportError(DlmError):
    """A step of the export that failed."""


class MergeError(ExportError):
    """An adapter that can't be merged into its base."""


class CalibrationError(ExportError):
    """Calibration text that can't be used."""


class QuantizationError(ExportError):
    """A model that can't be quantised."""


class VerifyError(ExportError):
    """A check that can't be made, or has no record to compare with."""


class OutputError(ExportError):
    """An output folder that can't be written."""


class ServerError(ExportError):
    """A server that can't be reached, or serves something else."""


class HubError(ExportError):
    """A repository on the Hub that can't be pushed to."""


class LineageError(DlmError):
    """A lineage file that is damaged."""


class EvaluationError(DlmError):
    """A measurement that can't be made."""
