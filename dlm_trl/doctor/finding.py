"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found about one thing, and what to do about it.

    state: ok; missing (something optional isn't there, and what it's for doesn't work); warning (works, but slower or
    untested); problem (the main job, training on a document, can't run).
    """

    about: str
    state: State
    found: str
    remedy: str = ""
