"""Check a frontmatter: every problem on its own line, with a suggestion for unknown keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from dlm_trl.notes.errors import DlmError, SchemaValidationError
from dlm_trl.notes.findings import REFUSED, Finding, finding_of
from dlm_trl.notes.frontmatter import load_mapping
from dlm_trl.notes.key_lines import Key, key_lines
from dlm_trl.notes.schema import Frontmatter

_FIRST_LINE = 2  # the YAML begins on the file's second line


class Head(NamedTuple):
    """A checked frontmatter.

    frontmatter: None if invalid. adapters: the declared names, None if they can't be determined. lines: the file line
    of each key, by its path in the YAML.
    """

    frontmatter: Frontmatter | None
    adapters: frozenset[str] | None
    findings: list[Finding]
    lines: dict[Key, int]


def check_head(text: str, path: Path) -> Head:
    """Check this YAML text (without the `---` lines)."""
    try:
        data = load_mapping(text, path)
    except DlmError as error:
        return Head(None, None, [finding_of(error, path)], {})
    lines, repeated = key_lines(text, _FIRST_LINE)
    findings = [
        Finding(
            path, line, 0, "repeated-key", f"The key `{_dotted(key)}` is repeated.", "The last one counts.", "Keep one."
        )
        for key, line in repeated
    ]
    try:
        frontmatter = Frontmatter.model_validate(data)
    except ValidationError as error:
        problems: dict[Key, list[Any]] = defaultdict(list)
        for problem in error.errors(include_input=False, include_url=False, include_context=False):
            problems[_known_part(problem["loc"], lines)].append(problem)
        findings += [_finding(key, several, lines, path) for key, several in problems.items()]
        return Head(None, _adapters(data), findings, lines)
    except RecursionError:
        deep = SchemaValidationError("The frontmatter is nested too deeply.", line=_FIRST_LINE)
        return Head(None, None, [*findings, finding_of(deep, path)], lines)
    return Head(frontmatter, frozenset(frontmatter.training.adapters or ()), findings, lines)


def _adapters(data: dict[Any, Any]) -> frozenset[str] | None:
    training = data.get("training", {})
    adapters = training.get("adapters") or {} if isinstance(training, dict) else None
    return frozenset(map(str, adapters)) if isinstance(adapters, dict) else None


def _known_part(loc: Key, lines: dict[Key, int]) -> Key:
    """Turn pydantic's location into a path in the YAML, by dropping the names of union branches."""
    while loc and loc not in lines and loc[:-1] and loc[:-1] in lines and not _is_field(loc):
        loc = loc[:-1]
    return loc


def _is_field(loc: Key) -> bool:
    return loc[-1] in _model_at(loc[:-1]).model_fields


def _finding(key: Key, problems: list[Any], lines: dict[Key, int], path: Path) -> Finding:
    """One finding per key; a union has a message for each of its branches."""
    messages = " or ".join(dict.fromkeys(problem["msg"] for problem in problems))
    message, fix = f"`{_dotted(key) or 'frontmatter'}`: {messages}.", "Correct the value, or leave the key out."
    kinds = {problem["type"] for problem in problems}
    if "extra_forbidden" in kinds:
        message, fix = f"Unknown key `{_dotted(key)}`.", _nearest(key)
    elif "missing" in kinds:
        message, fix = f"`{_dotted(key)}` is missing.", f"Add `{key[-1]}: …`."
    elif key == ("dlm_id",):
        fix = "It must be 26 digits and capital letters, without I, L, O and U."
    while key and key not in lines:
        key = key[:-1]
    return Finding(path, lines.get(key, _FIRST_LINE), 0, "SchemaValidationError", message, REFUSED, fix)


def _nearest(key: Key) -> str:
    """A suggestion for an unknown key: a similar name at the same level, or elsewhere in the schema."""
    name, known = str(key[-1]), list(_model_at(key[:-1]).model_fields)
    if close := get_close_matches(name, known, n=1):
        return f"Did you mean `{close[0]}`?"
    places = sorted(_places(Frontmatter), key=len)
    if close := get_close_matches(name, {str(place[-1]) for place in places}, n=1):
        place = next(place for place in places if place[-1] == close[0])
        return f"It belongs at `{_dotted(place)}`." if close[0] == name else f"Did you mean `{_dotted(place)}`?"
    return f"Remove it. Known here: {', '.join(known)}."


def _model_at(key: Key) -> type[BaseModel]:
    """The schema model for the keys below this path."""
    model: type[BaseModel] = Frontmatter
    for part in key:
        if field := model.model_fields.get(str(part)):
            model = next(_models(field.annotation), model)
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _places(model: type[BaseModel], prefix: Key = ()) -> Iterator[Key]:
    """Every key of the schema."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        for inner in _models(field.annotation):
            yield from _places(inner, (*prefix, name))


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))
