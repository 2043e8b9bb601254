"""Parse the YAML between the two `---` lines into a `Frontmatter`: safe load, migration, schema validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dlm_trl.notes.errors import (
    DlmVersionError,
    FrontmatterError,
    SchemaValidationError,
    UnsupportedMigrationError,
)
from dlm_trl.notes.schema import SCHEMA_VERSION, Frontmatter

_YAML_LINE = 2  # the YAML starts on the file's second line


def parse_frontmatter(text: str, path: Path | None = None) -> Frontmatter:
    """Parse this YAML text (without the `---` lines).

    Raises DlmError: FrontmatterError for invalid YAML or anything but a mapping, SchemaValidationError for unknown keys
    and wrong values, DlmVersionError and UnsupportedMigrationError for unsupported versions.
    """
    data = load_mapping(text, path)
    try:
        return Frontmatter.model_validate(data)
    except ValidationError as error:
        # Without inputs in the message, because nested aliases can make them exponentially long.
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        messages = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'frontmatter'}: {p['msg']}" for p in problems)
        raise _schema_error(f"{messages}.", path) from None
    except RecursionError:
        raise _schema_error("The frontmatter is nested too deeply.", path) from None


def load_mapping(text: str, path: Path | None = None) -> dict[Any, Any]:
    """The mapping in this YAML text, migrated to the current version but not validated.

    Raises DlmError as `parse_frontmatter` does, but SchemaValidationError only for a dlm_version that isn't an integer.
    """
    return _migrate(_load(text, path), path)


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that limits the expansion of merge keys."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > 10_000:
            raise yaml.constructor.ConstructorError(None, None, "merge keys expand too far", node.start_mark)


def _load(text: str, path: Path | None) -> dict[Any, Any]:
    if not text.strip():
        return {}
    try:
        data = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + _YAML_LINE, mark.column + 1) if mark else (_YAML_LINE, 0)
        raise _yaml_error(f"The YAML can't be parsed: {error.problem or error.context}.", path, line, column) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + _YAML_LINE, len(before) - before.rfind("\n")
        message = f"YAML doesn't allow the character U+{ord(text[error.position]):04X}."
        raise _yaml_error(message, path, line, column) from None
    except RecursionError:
        raise _yaml_error("The YAML is nested too deeply.", path) from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # PyYAML raises these for values like month 13, `!!bool x`, or integers with more than 4,300 digits.
        raise _yaml_error(f"A YAML value can't be parsed: {error}.", path) from None
    if not isinstance(data, dict):
        raise _yaml_error("The frontmatter isn't a mapping.", path)
    return data


def _migrate(data: dict[Any, Any], path: Path | None) -> dict[Any, Any]:
    version = data.get("dlm_version", 1)
    if type(version) is not int:
        raise _schema_error("dlm_version must be an integer.", path)
    if version > SCHEMA_VERSION:
        raise DlmVersionError(
            f"The document's dlm_version is newer than {SCHEMA_VERSION}, the latest supported version.",
            hint="Update dlm-trl, or lower dlm_version if the document uses no newer keys.",
            path=path,
            line=_YAML_LINE,
            column=0,
        )
    if version < 1:
        raise UnsupportedMigrationError(
            "dlm_version starts at 1.",
            hint=f"Set dlm_version: {SCHEMA_VERSION}.",
            path=path,
            line=0,
            column=0,
        )
    training = data.get("training")
    if version == 1 and isinstance(training, dict) and "dpo" in training:
        rest = {key: value for key, value in training.items() if key != "dpo"}
        data = data | {"training": rest | _dpo_to_preference(training["dpo"])}
    return data | {"dlm_version": SCHEMA_VERSION}


def _dpo_to_preference(dpo: Any) -> dict[Any, Any]:
    """Migrate version 1's flat `dpo` block to version 2's `preference`, with numbers under `hyperparams`.

    Unknown keys are dropped, as in the reference implementation.
    """
    if dpo is None:
        return {}
    if not isinstance(dpo, dict):
        return {"preference": dpo}
    preference = {"method": "dpo"} | {key: dpo[key] for key in ("enabled", "loss_type", "reference") if key in dpo}
    if hyperparams := {key: dpo[key] for key in ("beta", "learning_rate", "num_epochs") if key in dpo}:
        preference["hyperparams"] = hyperparams
    if preference.get("reference") == "pre_dpo_adapter":
        preference["reference"] = "pre_adapter"
    return {"preference": preference}


def _yaml_error(message: str, path: Path | None, line: int = _YAML_LINE, column: int = 0) -> FrontmatterError:
    return FrontmatterError(
        message,
        hint="The lines between the two `---` must be a YAML mapping.",
        path=path,
        line=line,
        column=column,
    )


def _schema_error(message: str, path: Path | None) -> SchemaValidationError:
    return SchemaValidationError(
        message,
        hint="See the format's list of frontmatter keys.",
        path=path,
        line=_YAML_LINE,
        column=0,
    )
