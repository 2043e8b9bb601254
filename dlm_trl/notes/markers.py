"""Fence lines and provenance markers: the two one-line notations of the body, read and judged here.

`::kind::`, `::kind#adapter::` and `::kind key="value"::` open a section; `<!-- dlm-auto-…: key="value" -->` right
behind an instruction or preference fence says how the section came to be. What only looks like one of them is content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast, get_args

from dlm_trl.notes.document import NO_TEXTS, Kind, Provenance
from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.schema import ADAPTER_NAME

_BARE = re.compile(r"::([A-Za-z0-9_#-]+)::")
_WITH_ATTRIBUTES = re.compile(r'::([a-z][a-z0-9_]*)((?:\s+[a-z][a-z0-9_]*="[^"\n]*")+)\s*::')
_ATTRIBUTE = re.compile(r'([a-z][a-z0-9_]*)="([^"\n]*)"')
_ADAPTER = re.compile(ADAPTER_NAME)
_KINDS = get_args(Kind)
_MEDIA = {"image": ({"path"}, {"path", "alt"}), "audio": ({"path", "transcript"}, {"path", "transcript"})}

_MARKER = re.compile(r"<!-- dlm-auto-(synth|mined|harvest):(.*) -->")
_MARKER_BODY = re.compile(r'(?:\s+[a-z][a-z0-9_]*="[^"\n]*")+')
_MARKER_KEYS = {
    "synth": {"synth_teacher", "synth_strategy", "synth_at", "source_section_id"},
    "mined": {"judge_name", "judge_score_chosen", "judge_score_rejected", "mined_at", "mined_run_id"},
    "harvest": {"source"},
}
_MARKER_KINDS = {"synth": ("instruction",), "mined": ("preference",), "harvest": ("instruction", "preference")}


class Fence(NamedTuple):
    """What a fence line says: the section's kind, its adapter, and a media fence's attributes."""

    kind: Kind
    adapter: str | None = None
    attributes: Mapping[str, str] = NO_TEXTS


PLAIN_FENCES = {f"::{kind}::": Fence(kind) for kind in ("prose", "instruction", "preference")}


def read_fence(text: str, line: int, path: Path | None) -> Fence | None:
    """The fence on this line, None if it is content. Raises DlmError (FenceError) for one that names nothing legal."""
    if bare := _BARE.fullmatch(text):
        return _bare_fence(bare[1], line, path)
    if full := _WITH_ATTRIBUTES.fullmatch(text):
        return _attribute_fence(full[1], _ATTRIBUTE.findall(full[2]), line, path)
    return None


def _bare_fence(name: str, line: int, path: Path | None) -> Fence:
    kind, hash_sign, adapter = name.partition("#")
    if kind not in _KINDS:
        hint = f"Kinds are {', '.join(_KINDS)}. A line that is no fence must not begin and end with `::`."
        raise fence_error(f"`::{name}::` is no kind of section.", hint, line, path)
    if kind in _MEDIA:
        raise fence_error(f"`::{kind}::` has no attributes.", f'Write `::{kind} path="…"::`.', line, path)
    if hash_sign and not _ADAPTER.fullmatch(adapter):
        hint = "A name is a lower-case letter, then up to 31 lower-case letters, digits or underscores."
        raise fence_error(f"`{adapter}` is no adapter name.", hint, line, path)
    return Fence(cast(Kind, kind), adapter if hash_sign else None)


def _attribute_fence(kind: str, items: list[tuple[str, str]], line: int, path: Path | None) -> Fence:
    if kind not in _MEDIA:
        raise fence_error(
            f"`::{kind} …::` takes no attributes.", "Only image and audio fences have attributes.", line, path
        )
    required, known = _MEDIA[kind]
    _check_keys(f"the {kind} fence", items, required, known, line, path)
    values = dict(items)
    if not all(value.isascii() for value in values.values()):
        raise fence_error("A fence attribute is not ASCII.", "Rename the file, or describe it in the text.", line, path)
    return Fence(cast(Kind, kind), None, MappingProxyType(values))


def read_marker(text: str, kind: Kind, line: int, path: Path | None) -> Provenance | None:
    """The values of the provenance marker on this line, None if it is content; kind is the section's, line its fence's.

    Raises DlmError (FenceError) for a marker with missing, unknown, repeated or malformed values.
    """
    found = _MARKER.fullmatch(text)
    if found is None or kind not in _MARKER_KINDS[found[1]]:
        return None
    name = found[1]
    if not _MARKER_BODY.fullmatch(found[2]):
        raise fence_error(f"The {name} marker does not parse.", 'It is a list of key="value".', line, path)
    items = _ATTRIBUTE.findall(found[2])
    _check_keys(f"the {name} marker", items, _MARKER_KEYS[name], _MARKER_KEYS[name], line, path)
    try:
        return {key: _marker_value(key, value) for key, value in items}
    except ValueError as error:
        raise fence_error(f"The {name} marker is wrong: {error}.", "Correct it or remove it.", line, path) from None


def _marker_value(key: str, value: str) -> str | int | float:
    """The typed value; ValueError says what is wrong with it."""
    if key in ("synth_at", "mined_at"):
        datetime.fromisoformat(value)
    elif key == "source_section_id" and not re.fullmatch("[0-9a-f]{16}", value):
        raise ValueError("source_section_id must be 16 lower-case hex digits")
    elif key in ("judge_score_chosen", "judge_score_rejected"):
        if not math.isfinite(score := float(value)):
            raise ValueError(f"{key} must be finite")
        return score
    elif key == "mined_run_id":
        if (run := int(value)) < 1:
            raise ValueError("mined_run_id starts at 1")
        return run
    elif key in ("synth_teacher", "synth_strategy") and not value:
        raise ValueError(f"{key} is empty")
    return value


def _check_keys(
    what: str, items: list[tuple[str, str]], required: set[str], known: set[str], line: int, path: Path | None
) -> None:
    keys = [key for key, _ in items]
    for problem, names in (
        ("repeats", {key for key in keys if keys.count(key) > 1}),
        ("does not know", set(keys) - known),
        ("lacks", required - set(keys)),
    ):
        if names:
            raise fence_error(
                f"{what.capitalize()} {problem} {_listed(names)}.", f"Its keys: {_listed(known)}.", line, path
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def fence_error(message: str, hint: str, line: int, path: Path | None, column: int = 1) -> DlmError:
    """A FenceError at this line."""
    return DlmError(kind="FenceError", message=message, hint=hint, path=path, line=line, column=column)
