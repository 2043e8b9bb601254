"""A setting of a run: its value, and where it comes from. Settings as KEY=VALUE on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlm_trl.notes.errors import UsageError


@dataclass(frozen=True)
class Setting:
    """source: `default…`, `command line`, or file and line, such as `recipes/notes.yaml:3`."""

    value: Any
    source: str

    @property
    def is_default(self) -> bool:
        """Whether nobody set it."""
        return self.source.startswith("default")


def as_arguments(settings: Sequence[str]) -> list[str]:
    """The recipe's command line for settings written as KEY=VALUE. Raises DlmError (UsageError) for another form."""
    arguments = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise UsageError(f"{setting!r} is not KEY=VALUE.", hint="Write config=recipes/notes.yaml, for example.")
        arguments += [f"--{key}", value]
    return arguments
