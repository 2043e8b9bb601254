"""Select the files of a source folder: globs, built-in excludes, `.dlm/training.yaml` and `.dlm/ignore`.

A `Filters` applies to one folder and everything below it; `descend` returns that of a subfolder, after reading its two
files. In a glob, `**` matches anything, `*` anything without a slash, `?` one character, and nothing else is special;
it must match the whole POSIX path relative to the folder that defines it.
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

# Generated and binary files, and secrets that must not end up in a model by accident.
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


_LAZY = {"": "", "**": ".*?", "**/": "(?:.*?/)??"}
_GREEDY = {"": "", "**": ".*", "**/": "(?:.*/)?"}
_KEYS = f"Its keys are {', '.join(TrainingFile.model_fields)}."


class _Rule(NamedTuple):
    """A pattern for paths relative to `folder`, which is relative to the source's root."""

    folder: PurePosixPath
    pattern: re.Pattern[str]
    excludes: bool = True

    def matches(self, path: PurePosixPath) -> bool:
        return self.pattern.fullmatch(path.relative_to(self.folder).as_posix()) is not None


@dataclass(frozen=True)
class Filters:
    """The rules for one folder; paths are relative to the source's root.

    tags: of the files below. weights: tag → value → factor.
    """

    includes: tuple[_Rule, ...]
    excludes: tuple[_Rule, ...]
    ignores: tuple[_Rule, ...] = ()
    use_defaults: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def take(self, path: PurePosixPath) -> bool:
        """Whether this file is used. Ignore files are applied last and can re-include an excluded file."""
        excluded = any(rule.matches(path) for rule in self.excludes)
        excluded = excluded or (self.use_defaults and any(rule.matches(path) for rule in _defaults()))
        for rule in self.ignores:
            if rule.matches(path):
                excluded = rule.excludes
        return not excluded and any(rule.matches(path) for rule in self.includes)

    def weight(self) -> float:
        """The product of the factors of all tags; 1 for a tag or value without one."""
        product = 1.0
        for tag, value in self.tags.items():
            product *= self.weights.get(tag, {}).get(value, 1.0)
        return product

    def descend(self, folder: PurePosixPath, directory: Path) -> Filters:
        """The rules for a subfolder, which is `directory` on disk. Raises DlmError (SourceError)."""
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
    """The initial rules of a `training.sources` entry."""
    root = PurePosixPath()
    return Filters(_rules(root, source.include), _rules(root, source.exclude))


@cache
def _defaults() -> tuple[_Rule, ...]:
    return _rules(PurePosixPath(), DEFAULT_EXCLUDES)


def _rules(folder: PurePosixPath, globs: Iterable[str]) -> tuple[_Rule, ...]:
    return tuple(_Rule(folder, re.compile(_regex(glob), re.DOTALL)) for glob in globs)


# Not pathspec, because this isn't gitignore syntax: the format has no `[…]` classes and no escapes, a slash in the
# middle doesn't anchor a pattern, and `**` matches anything, also within a name.
def _ignore_rule(folder: PurePosixPath, line: str) -> _Rule | None:
    """The rule of one line: `!` re-includes, a leading `/` anchors to the folder, a trailing `/` matches only folders.

    A pattern that matches a folder applies to everything below it.
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
    """The regular expression for a glob; `**/` also matches zero folders.

    A plain translation takes exponential time on a glob such as `*a*a*a*a*b`. Here every wildcard but the last keeps
    the first match of the text after it (an atomic group): a later match can't help what follows the next wildcard.
    For `**` that text goes up to the next `**`, because a `*` in between stops at slashes.
    """
    chunks: list[tuple[str, list[str]]] = [("", [""])]  # the wildcard that begins it, and the texts between its `*`
    for token in re.findall(r"(?:\A|(?<=/))\*\*/|\*\*|.", glob, re.DOTALL):
        if token.startswith("**"):
            chunks.append((token, [""]))
        elif token == "*":
            chunks[-1][1].append("")
        else:
            chunks[-1][1][-1] += "[^/]" if token == "?" else re.escape(token)
    *before, (last, texts) = chunks
    pattern = ""
    for wildcard, parts in before:
        chunk = parts[0] + "".join(f"(?>[^/]*?{part})" for part in parts[1:])
        pattern += f"(?>{_LAZY[wildcard]}{chunk})"
    pattern += _GREEDY[last] + texts[0] + "".join(f"(?>[^/]*?{part})" for part in texts[1:-1])
    return pattern + (f"[^/]*{texts[-1]}" if len(texts) > 1 else "")


def _training_file(text: str, path: Path) -> TrainingFile:
    try:
        return TrainingFile.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceError(f"{where or 'The file'}: {first['msg']}.", hint=_KEYS, path=path) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SourceError(f"The YAML can't be parsed: {' '.join(str(error).split())}.", hint=_KEYS, path=path) from None


def _text(path: Path) -> str | None:
    """The file's text, or None if there is no such file. Raises DlmError (SourceError) if it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else None
    except UnicodeError:
        raise SourceError("The file isn't UTF-8.", hint="Save it as UTF-8.", path=path) from None
    except OSError as error:
        raise SourceError(
            f"The file cannot be read: {error.strerror}.",
            hint="Check its permissions, or move it elsewhere.",
            path=path,
        ) from None
