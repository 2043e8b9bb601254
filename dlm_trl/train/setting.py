"""A setting of a run: its value, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """source: `default…`, `command line`, or file and line, such as `recipes/notes.yaml:3`."""

    value: Any
    source: str

    @property
    def is_default(self) -> bool:
        """Whether nobody set it."""
        return self.source.startswith("default")
