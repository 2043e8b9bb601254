"""Which files of a source folder are taken: globs, the built-in excludes, `.dlm/training.yaml` and `.dlm/ignore`.

A `Filters` holds for one folder and everything below it; `descend` gives those of a folder inside, with its own two
files read. Globs: `**` is anything, `*` anything without a slash, `?` one character, nothing else is special; a glob
must match the whole POSIX path relative to the folder that names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dlm_trl.notes.errors import SourceError
from dlm_trl.notes.schema import Source, Text

# What nobody wants to train on, and what nobody wants to have trained on by accident.
_FOLDERS = (
    ".dlm .git .hg .svn .bzr .ssh .aws .gnupg .venv venv .tox .nox node_modules build dist target __pycache__ "
    ".mypy_cache .pytest_cache .ruff_cache"
)
_FILES = (
    ".env .env.* *.env .envrc .netrc .npmrc .pypirc id_rsa* id_dsa* id_ecdsa* id_ed25519* *.pem *.key *.p12 *.pfx "
    "*.jks *.keystore *.kdbx secrets.yaml secrets.yml secrets.json "
    "*.pyc *.pyo *.pyd *.o *.obj *.a *.so *.dll *.dylib *.exe *.class *.jar *.war *.wasm *.whl "
    "*.min.js *.min.css *.map package-lock.json yarn.lock pnpm-lock.yaml poetry.lock uv.lock Pipfile.lock "
    "Cargo.lock Gemfile.lock composer.lock *.zip *.tar *.tgz *.gz *.bz2 *.xz *.7z *.rar *.zst "
    "*.pdf *.png *.jpg *.jpeg *.gif *.webp *.ico"
)
_TRAINING, _IGNORE = Path(".dlm", "training.yaml"), Path(".dlm", "ignore")
FOLDER_FILES = (_TRAINING, _IGNORE)
DEFAULT_EXCLUDES = (*(f"**/{name}/**" for name in _FOLDERS.split()), *(f"**/{name}" for name in _FILES.split()))


class TrainingFile(BaseModel):
    """A folder's `.dlm/training.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dlm_training_version: Literal[1]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_defaults: bool | None = None
    metadata: dict[Text, Text] = {}
    weights: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = {}


_KEYS = f"Its keys: {', '.join(TrainingFile.model_fields)}."


class _Rule(NamedTuple):
    """A pattern and the folder (relative to the source's root) whose paths it is matched on."""

    folder: PurePosixPath
    pattern: re.Pattern[str]
    excludes: bool = True

    def matches(self, path: PurePosixPath) -> bool:
        return self.pattern.fullmatch(path.relative_to(self.folder).as_posix()) is not None


@dataclass(frozen=True)
class Filters:
    """The rules in force in one folder; paths are relative to the source's root.

    tags are those of the files below, weights says for each tag what each of its values weighs.
    """

    includes: tuple[_Rule, ...]
    excludes: tuple[_Rule, ...]
    ignores: tuple[_Rule, ...] = ()
    use_defaults: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def take(self, path: PurePosixPath) -> bool:
        """Whether this file is taken. The last rule that matches wins; ignore files come last and may take back an
        exclude.
        """
        excluded = any(rule.matches(path) for rule in self.excludes)
        excluded = excluded or (self.use_defaults and any(rule.matches(path) for rule in _defaults()))
        for rule in self.ignores:
            if rule.matches(path):
                excluded = rule.excludes
        return not excluded and any(rule.matches(path) for rule in self.includes)

    def weight(self) -> float:
        """The product over the tags of what their values weigh; 1 for one that no table names."""
        product = 1.0
        for tag, value in self.tags.items():
            product *= self.weights.get(tag, {}).get(value, 1.0)
        return product

    def descend(self, folder: PurePosixPath, directory: Path) -> Filters:
        """The rules in force in this folder, whose place on the disk is `directory`. Raises DlmError (SourceError)."""
        filters = self
        if (text := _text(directory / _TRAINING)) is not None:
            own = _training_file(text, directory / _TRAINING)
            filters = replace(
                filters,
                includes=_rules(folder, own.include) or filters.includes,
                excludes=filters.excludes + _rules(folder, own.exclude),
                use_defaults=filters.use_defaults if own.exclude_defaults is None else own.exclude_defaults,
                tags={**filters.tags, **own.metadata},
                weights={
                    tag: {**filters.weights.get(tag, {}), **own.weights.get(tag, {})}
                    for tag in {**filters.weights, **own.weights}
                },
            )
        if (text := _text(directory / _IGNORE)) is not None:
            rules = (_ignore_rule(folder, line) for line in text.splitlines())
            filters = replace(filters, ignores=filters.ignores + tuple(rule for rule in rules if rule))
        return filters


def filters_of(source: Source) -> Filters:
    """The rules that a `training.sources` entry starts with."""
    root = PurePosixPath()
    return Filters(_rules(root, source.include), _rules(root, source.exclude))


@cache
def _defaults() -> tuple[_Rule, ...]:
    return _rules(PurePosixPath(), DEFAULT_EXCLUDES)


def _rules(folder: PurePosixPath, globs: Iterable[str]) -> tuple[_Rule, ...]:
    return tuple(_Rule(folder, re.compile(_regex(glob), re.DOTALL)) for glob in globs)


def _ignore_rule(folder: PurePosixPath, line: str) -> _Rule | None:
    """`!` takes back, a leading `/` anchors to the folder, a trailing `/` is for folders; a matched folder takes all
    below it.
    """
    line = line.strip()
    excludes = not line.startswith("!")
    glob = line.removeprefix("!")
    if not glob.strip("/") or line.startswith("#"):
        return None
    below = "/.*" if glob.endswith("/") else "(?:/.*)?"
    anchored = glob.startswith("/")
    pattern = ("" if anchored else "(?:.*/)?") + _regex(glob.strip("/")) + below
    return _Rule(folder, re.compile(pattern, re.DOTALL), excludes)


def _regex(glob: str) -> str:
    """The regular expression of a glob; `**/` also matches no folder at all."""
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        "(?:.*/)?" if token.endswith("**/") else parts.get(token) or re.escape(token)
        for token in re.findall(r"(?:\A|(?<=/))\*\*/|\*\*|.", glob, re.DOTALL)
    )


def _training_file(text: str, path: Path) -> TrainingFile:
    try:
        return TrainingFile.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceError(f"{where or 'The file'}: {first['msg']}.", hint=_KEYS, path=path) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SourceError(f"The YAML does not parse: {' '.join(str(error).split())}.", hint=_KEYS, path=path) from None


def _text(path: Path) -> str | None:
    """The file's text, None where there is no such file. Raises DlmError (SourceError) where that cannot be known."""
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else None
    except UnicodeError:
        raise SourceError("The file is not UTF-8.", hint="Save it as UTF-8.", path=path) from None
    except OSError as error:
        raise SourceError(
            f"The file cannot be read: {error.strerror}.", hint="Allow it, or move it away.", path=path
        ) from None
