"""Fence lines and provenance markers, the two one-line notations of the body.

`::kind::`, `::kind#adapter::` and `::kind key="value"::` start a section; `<!-- dlm-auto-…: key="value" -->` right
after an instruction or preference fence records where the section came from. Lines that only look similar are content.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast, get_args

from dlm_trl.notes.document import NO_TEXTS, Kind, Provenance
from dlm_trl.notes.errors import FenceError
from dlm_trl.notes.schema import ADAPTER_NAME

_BARE = re.compile(r"::([A-Za-z0-9_#-]+)::")
_WITH_ATTRIBUTES = re.compile(r'::([a-z][a-z0-9_]*)((?:\s+[a-z][a-z0-9_]*="[^"\n]*")+)\s*::')
_ATTRIBUTE = re.compile(r'([a-z][a-z0-9_]*)="([^"\n]*)"')
_ADAPTER = re.compile(ADAPTER_NAME)
_KINDS = get_args(Kind)
_MEDIA = {"image": ({"path"}, {"path", "alt"}), "audio": ({"path", "transcript"}, {"path", "transcript"})}

_MARKER = re.compile(r"<!-- dlm-auto-(synth|mined|harvest):(.*) -->")
_MARKER_BODY = re.compile(r'(?:\s+[a-z][a-z0-9_]*="[^"\n]*")+')
_MARKER_KINDS = {"synth": ("instruction",), "mined": ("preference",), "harvest": ("instruction", "preference")}


def _time(value: str) -> str:
    datetime.fromisoformat(value)
    return value


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError
        return value

    return check


def _finite(value: str) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _run_number(value: str) -> int:
    if (number := int(value)) < 1:
        raise ValueError
    return number


# Each marker's keys, with a parser (raises ValueError) and the expected value for error messages.
_MARKERS: dict[str, dict[str, tuple[Callable[[str], str | int | float], str]]] = {
    "synth": {
        "synth_teacher": (_matching("(?s).+"), "some text"),
        "synth_strategy": (_matching("(?s).+"), "some text"),
        "synth_at": (_time, "an ISO 8601 time"),
        "source_section_id": (_matching("[0-9a-f]{16}"), "16 lower-case hex digits"),
    },
    "mined": {
        "judge_name": (str, "some text"),
        "judge_score_chosen": (_finite, "a finite number"),
        "judge_score_rejected": (_finite, "a finite number"),
        "mined_at": (_time, "an ISO 8601 time"),
        "mined_run_id": (_run_number, "a whole number of at least 1"),
    },
    "harvest": {"source": (str, "some text")},
}


class Fence(NamedTuple):
    """A parsed fence line: the section's kind, its adapter, and the attributes of a media fence."""

    kind: Kind
    adapter: str | None = None
    attributes: Mapping[str, str] = NO_TEXTS


PLAIN_FENCES = {f"::{kind}::": Fence(kind) for kind in ("prose", "instruction", "preference")}


def read_fence(text: str, line: int, path: Path | None) -> Fence | None:
    """The fence on this line, or None if it is content. Raises DlmError (FenceError) for an invalid fence."""
    if bare := _BARE.fullmatch(text):
        return _bare_fence(bare[1], line, path)
    if full := _WITH_ATTRIBUTES.fullmatch(text):
        return _attribute_fence(full[1], _ATTRIBUTE.findall(full[2]), line, path)
    return None


def _bare_fence(name: str, line: int, path: Path | None) -> Fence:
    kind, hash_sign, adapter = name.partition("#")
    if kind not in _KINDS:
        hint = f"Kinds are {', '.join(_KINDS)}. Only fences may start and end with `::`."
        raise FenceError(f"`::{name}::` isn't a kind of section.", hint=hint, path=path, line=line, column=1)
    if kind in _MEDIA:
        raise FenceError(
            f"`::{kind}::` needs attributes.", hint=f'Write `::{kind} path="…"::`.', path=path, line=line, column=1
        )
    if hash_sign and not _ADAPTER.fullmatch(adapter):
        hint = "A name is a lower-case letter, then up to 31 lower-case letters, digits or underscores."
        raise FenceError(f"`{adapter}` isn't a valid adapter name.", hint=hint, path=path, line=line, column=1)
    return Fence(cast(Kind, kind), adapter if hash_sign else None)


def _attribute_fence(kind: str, items: list[tuple[str, str]], line: int, path: Path | None) -> Fence:
    if kind not in _MEDIA:
        raise FenceError(
            f"`::{kind} …::` doesn't take attributes.",
            hint="Only image and audio fences have attributes.",
            path=path,
            line=line,
            column=1,
        )
    values = dict(items)
    required, known = _MEDIA[kind]
    if problem := _key_problem(items, required, known):
        raise FenceError(
            f"The {kind} fence {problem}.", hint=f"Its keys are {_listed(known)}.", path=path, line=line, column=1
        )
    if not all(value.isascii() for value in values.values()):
        raise FenceError(
            "A fence attribute isn't ASCII.",
            hint="Rename the file, or describe it in the text.",
            path=path,
            line=line,
            column=1,
        )
    return Fence(cast(Kind, kind), None, MappingProxyType(values))


def read_marker(text: str, kind: Kind, line: int, path: Path | None) -> Provenance | None:
    """The values of the provenance marker on this line, or None if it is content.

    kind: of the section. line: of its fence, for errors. Raises DlmError (FenceError) for missing, unknown, repeated or
    malformed values.
    """
    try:
        return _marker(text, kind)
    except ValueError as error:
        message, hint = error.args
        raise FenceError(message, hint=hint, path=path, line=line, column=1) from None


@lru_cache(maxsize=256)  # all pairs synthesised from one section have the same marker
def _marker(text: str, kind: Kind) -> Provenance | None:
    """Like `read_marker`, but raises ValueError(message, hint)."""
    match = _MARKER.fullmatch(text)
    if match is None or kind not in _MARKER_KINDS[match[1]]:
        return None
    name, keys = match[1], _MARKERS[match[1]]
    if not _MARKER_BODY.fullmatch(match[2]):
        raise ValueError(f'The {name} marker isn\'t a list of key="value".', f"Its keys are {_listed(keys)}.")
    items = _ATTRIBUTE.findall(match[2])
    if problem := _key_problem(items, keys.keys(), keys.keys()):
        raise ValueError(f"The {name} marker {problem}.", f"Its keys are {_listed(keys)}.")
    values = {}
    for key, value in items:
        read, expected = keys[key]
        try:
            values[key] = read(value)
        except ValueError:
            raise ValueError(f'The {name} marker has "{value}" for {key}.', f"It must be {expected}.") from None
    return MappingProxyType(values)


def _key_problem(items: list[tuple[str, str]], required: Set[str], known: Set[str]) -> str | None:
    """The problem with the keys, or None: a repeated, unknown or missing one."""
    keys = dict(items).keys()
    if len(keys) == len(items) and required <= keys <= known:
        return None
    count = Counter(key for key, _ in items)
    if repeated := {key for key in count if count[key] > 1}:
        return f"repeats {_listed(repeated)}"
    if unknown := keys - known:
        return f"has the unknown key {_listed(unknown)}"
    return f"lacks {_listed(required - keys)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
