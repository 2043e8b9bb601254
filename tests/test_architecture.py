"""Imports go one way, importing the package loads nothing heavy, every module has a docstring, names that are imported
exist.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dlm_trl"

# Which rooms a room may import. The map in CONTRIBUTING.md has the same order.
ROOMS: dict[str, set[str]] = {
    "notes": set(),
    "rows": {"notes"},
    "tiny": set(),
    "models": {"notes", "tiny"},
    "teachers": {"notes", "models"},
    "asking": {"notes"},
    "tasks": {"notes", "asking"},
    "synth": {"notes", "rows", "models", "teachers", "asking", "tasks"},
    "online": {"notes", "rows", "models", "teachers", "tasks"},
    "evaluation": {"notes", "rows", "models", "tasks"},
    "train": {"notes", "rows", "tiny", "models", "teachers", "tasks", "online", "evaluation"},
    "export": {"notes", "rows", "models", "evaluation"},
    "hub": {"notes", "rows", "models", "online", "evaluation", "export"},
    "doctor": {"notes", "models"},
    "chat": {"notes", "rows", "models", "evaluation", "export"},
    "improve": {"notes", "rows", "teachers", "asking", "synth", "evaluation", "train", "export"},
    "review": {"notes", "rows", "synth"},
    "cli": {
        "notes",
        "rows",
        "models",
        "teachers",
        "tasks",
        "synth",
        "online",
        "evaluation",
        "train",
        "export",
        "hub",
        "doctor",
        "chat",
        "improve",
        "review",
    },
}
ENTRY_POINTS = {"__init__", "__main__"}  # may import every room
MODULES = sorted(PACKAGE.rglob("*.py"))
OUTSIDE = sorted(path for name in ("recipes", "scripts", "benchmarks") for path in (PACKAGE.parent / name).glob("*.py"))


def rooms_imported(source: str, module: str) -> Iterator[tuple[str, int]]:
    """Rooms of `dlm_trl` that a module imports, with the line; imports inside functions count too.

    module: dotted name of the importing module, to resolve relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                base = ".".join([*parents[: len(parents) - node.level], *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "dlm_trl" and len(parts) > 1:
                yield parts[1], node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    inside = path.relative_to(PACKAGE)
    room = inside.parts[0].removesuffix(".py")
    if room in ENTRY_POINTS:
        return
    # `from . import x` in an __init__ resolves like in a module of its package, so the name keeps `__init__`.
    module = ".".join(["dlm_trl", *inside.with_suffix("").parts])
    allowed = ROOMS[room] | {room}
    wrong = [
        f"{inside}:{line} imports dlm_trl.{other}"
        for other, line in rooms_imported(path.read_text(encoding="utf-8"), module)
        if other not in allowed
    ]
    assert not wrong, f"{wrong}; {room} may import {sorted(ROOMS[room]) or 'no other room'}"


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import dlm_trl.train.run", ["train"]),
        ("from dlm_trl import synth", ["synth"]),
        ("from dlm_trl.models.load import load_base", ["models"]),
        ("def f():\n    from ..train import run", ["train"]),
        ("from .parser import parse", ["notes"]),
        ("import json, torch", []),
    ],
)
def test_every_form_of_import_is_read(source: str, rooms: list[str]) -> None:
    assert [room for room, _ in rooms_imported(source, "dlm_trl.notes.check")] == rooms


def modules_imported(path: Path) -> set[Path]:
    """The modules of the package that a module imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlm_trl"):
            base = PACKAGE.parent.joinpath(*node.module.split("."))
            found |= {base / f"{alias.name}.py" for alias in node.names} | {base.with_suffix(".py")}
    return {module for module in found if module.is_file()}


def test_no_module_imports_itself_by_a_detour() -> None:
    imports = {path: modules_imported(path) for path in MODULES}
    TopologicalSorter(imports).prepare()  # raises CycleError, with the circle


def defined_names(module: Path) -> set[str]:
    """Names that can be imported from a module: definitions, assignments, imports, and submodules."""
    names = {path.stem for path in module.parent.iterdir()} if module.name == "__init__.py" else set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.relative_to(PACKAGE.parent).as_posix())
def test_names_imported_by_recipes_scripts_and_benchmarks_exist(path: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("dlm_trl"):
            continue
        base = PACKAGE.parent.joinpath(*node.module.split("."))
        module = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        known = defined_names(module) if module.is_file() else set()
        missing += [f"{path.name}:{node.lineno} {node.module}.{a.name}" for a in node.names if a.name not in known]
    assert not missing


def test_every_folder_is_in_the_map() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)


def test_the_map_has_no_cycles() -> None:
    seen: set[str] = set()
    for room, allowed in ROOMS.items():
        assert allowed <= seen, f"{room} may import {allowed - seen}, which come after it"
        seen.add(room)


def test_all_output_goes_through_the_module_that_escapes_it() -> None:
    recipes = [path for path in OUTSIDE if path.parent.name == "recipes"]
    # A worker talks to its parent by stdout.
    excluded = {PACKAGE / "notes" / "terminal.py", PACKAGE / "export" / "awq_worker.py"}
    printed = []
    for path in [*MODULES, *recipes]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "typer.echo",
                "Console",
                "console.print",
            ):
                printed.append((path, f"{path.name}:{node.lineno}: {ast.unparse(node)[:60]}"))
    assert not [where for path, where in printed if path not in excluded], (
        "use say or console of dlm_trl.notes.terminal"
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_module_has_a_docstring(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path} has no docstring"
    if path.name == "__init__.py":
        assert len(docstring.split()) >= 20, f"{path}: write at least 20 words, not {docstring!r}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, dlm_trl; print(sorted({'torch', 'transformers', 'trl', 'peft'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_texts_are_tokenised_in_one_place() -> None:
    """A tokenizer that is called directly turns text that spells a control token into that token.

    The room `tasks` may not import `models`; it tokenises its own words, to see how many tokens they have.
    """

    def called(node: ast.Call) -> str:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return (
            name if name == "tokenizer" or name in ("apply_chat_template", "encode_plus", "batch_encode_plus") else ""
        )

    found = {
        (path.relative_to(PACKAGE).as_posix(), called(node))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and called(node)
    }
    assert found == {
        ("models/control_tokens.py", "tokenizer"),
        ("models/chat.py", "apply_chat_template"),
        ("export/sidecar_files.py", "apply_chat_template"),  # to find syntax errors
        ("tasks/mcsb.py", "tokenizer"),
    }
