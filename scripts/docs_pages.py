"""Writes the parts of the documentation that come from elsewhere in the repository; `make docs` runs it.

    python scripts/docs_pages.py docs/generated

tables/*.md: settings, limits and the command line, from the package itself. *.md: copies of pages that live outside
docs/, with their relative links changed to fit.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from dlm_trl.cli.main import app
from dlm_trl.export.steps import LIMITS
from dlm_trl.train import arguments

ROOT = Path(__file__).parent.parent
COPIES = {
    "benchmarks/RESULTS.md": "results.md",
    "dlm_trl/tiny/README.md": "tiny.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", Any: "any"}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a | inside a cell is escaped."""
    head = [*header]
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def settings() -> str:
    """A table for each dataclass of the recipes' settings, under its docstring; inherited ones are in another table."""
    parts = []
    for owner in vars(arguments).values():
        if isinstance(owner, type) and is_dataclass(owner):
            hints = get_type_hints(owner)
            rows = [
                (f"`{f.name}`", type_words(hints[f.name]), default_words(f.default), f.metadata["help"])
                for f in fields(owner)
                if f.name in vars(owner)["__annotations__"]
            ]
            shown = table(("setting", "type", "default", "what it does"), rows)
            parts.append(f"## {owner.__name__}\n\n{owner.__doc__}\n\n{shown}")
    return "\n".join(parts)


def type_words(hint: Any) -> str:
    """A type in words: `int | None` is "integer", a Literal its values."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(type_words(each) for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    return {list: "list", dict: "mapping"}.get(get_origin(hint) or hint) or WORDS[hint]


def default_words(value: Any) -> str:
    """A default as YAML has it."""
    if value is None or value is MISSING:
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def limits() -> str:
    """The limits of the export, as `verify` and `serve-check` apply them."""
    rows = [(limit.step, limit.name, str(limit), limit.failing) for limit in LIMITS]
    return table(("step", "check", "limit", "if it fails"), rows)


def command_line(command: Any, name: str = "dlm-trl") -> str:
    """Every verb with its help, arguments and options; groups are walked."""
    if hasattr(command, "commands"):
        return "\n".join(command_line(verb, f"{name} {key}") for key, verb in command.commands.items())
    rows = [(parameter_words(p), (p.help or "").replace("*", r"\*")) for p in command.params if p.name != "help"]
    return f"## {name}\n\n{command.help}\n\n{table(('argument or option', 'what it does'), rows)}"


def parameter_words(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    default = parameter.default if isinstance(parameter.default, str | int | float) else None
    shown = "" if default is None or isinstance(default, bool) else f" (`{getattr(default, 'value', default)}`)"
    return f"`{parameter.opts[0]}`{shown}"


def copy(source: str, out: Path) -> None:
    """Copy a page; links to other copied pages and pictures follow, links to files outside the site become text."""

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found["text"], *found["target"].partition("#")[::2]
        path = os.path.normpath(Path(source).parent / target)
        if path in COPIES:
            return f"{text}({COPIES[path]}{'#' * bool(anchor)}{anchor})"
        if path.startswith("docs/"):
            return f"{text}(../{path.removeprefix('docs/')}{'#' * bool(anchor)}{anchor})"
        if text.startswith("!"):
            shutil.copy(ROOT / path, out)
            return f"{text}({Path(path).name})"
        return text.strip("[]")

    page = (ROOT / source).read_text(encoding="utf-8")
    page = re.sub(r"\A---\n.*?\n---\n", "", page, flags=re.DOTALL)  # a model card's YAML
    page = re.sub(r"(?P<text>!?\[[^\]\n]*\])\((?P<target>(?![a-z]+:|#)[^)\s]+)\)", link, page)
    (out / COPIES[source]).write_text(page, encoding="utf-8")


def main(out: Path) -> None:
    (out / "tables").mkdir(parents=True, exist_ok=True)
    tables = {"settings": settings(), "limits": limits(), "cli": command_line(typer.main.get_command(app))}
    for name, text in tables.items():
        (out / "tables" / f"{name}.md").write_text(text, encoding="utf-8")
    for source in COPIES:
        copy(source, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
