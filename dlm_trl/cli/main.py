"""The program: `dlm-trl VERB …` or `python -m dlm_trl VERB …`.

A `DlmError` is one line on stderr and exit 1; wrong usage is exit 2. Each verb imports what it needs inside its
function, so `dlm-trl --help` starts fast.
"""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from dlm_trl.cli import chat, doctor, evaluate, export, improve, push, review, synth
from dlm_trl.cli.options import DOCUMENT
from dlm_trl.cli.shared import misuse_exits_with_2
from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.shipped import shipped
from dlm_trl.notes.terminal import logging_to_stderr, say

app = typer.Typer(
    help="Train small language models on .dlm notes, check every step, and serve them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Format(StrEnum):
    """How findings are printed."""

    text = "text"
    json = "json"
    github = "github"


@app.callback()
def _verbs() -> None:
    """Without a callback, typer would turn a single verb into the whole program."""


@app.command()
def check(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True, dir_okay=False, readable=True, metavar="FILE…", help="Documents, for example notes/*.dlm."
        ),
    ],
    format: Annotated[
        Format, typer.Option(help="text for people, json for programs, github for annotations.")
    ] = Format.text,
) -> None:
    """List what the reader would refuse or silently misread.

    Each finding says where it is, what is wrong, why it matters and what to do. No file is changed.
    Exit 0: no findings but hints, 1: findings, 2: wrong usage.
    """
    from dlm_trl.notes import findings
    from dlm_trl.notes.check import check as check_file

    found = [finding for file in files for finding in check_file(file)]
    hints = sum(finding.is_hint for finding in found)
    render = {Format.text: findings.as_text, Format.json: findings.as_json, Format.github: findings.as_github}[format]
    if text := render(found):
        say(text)
    if format is Format.text:
        for file in files:
            if table := _sources(file):
                say(f"{file}: {table}", err=True)
        hinted = f" and {_count(hints, 'hint')}" if hints else ""
        say(f"{_count(len(found) - hints, 'finding')}{hinted} in {_count(len(files), 'file')}.", err=True)
    raise typer.Exit(1 if len(found) > hints else 0)


@app.command()
@misuse_exits_with_2
def train(
    file: DOCUMENT,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Settings, such as lora_r=16 or config=recipes/notes.yaml."),
    ] = None,
) -> None:
    """Train the document's adapter: runs recipes/sft.py with FILE as its notes.

    The recipe's --help lists all settings. With several GPUs, each gets a
    process; to choose otherwise, use `accelerate launch recipes/sft.py`.
    """
    _run_recipe("sft", file, settings or [])


@app.command()
@misuse_exits_with_2
def dpo(
    file: DOCUMENT,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Settings, such as beta=0.2 or adapter_from=runs/notes."),
    ] = None,
) -> None:
    """Train the document's adapter further, on its preference sections: runs recipes/dpo.py.

    It starts from the document's current adapter, which `dlm-trl train` makes, unless
    adapter_from names another one. The recipe's --help lists all settings.
    """
    _run_recipe("dpo", file, settings or [])


def _run_recipe(name: str, file: Path, settings: list[str]) -> None:
    """Run a recipe with this document: in this process, or with one process per GPU."""
    from dlm_trl.doctor.launch_files import fitting, here
    from dlm_trl.train.setting import as_arguments

    arguments = ["--notes", str(file), *as_arguments(settings)]
    launch_file, processes = fitting(here())
    if processes == 1:
        _recipe(name).main(arguments)
        return
    from dlm_trl.train.launch import launch

    say(f"{processes} processes, one per GPU: accelerate launch --config_file {launch_file.path}", err=True)
    launch(shipped(f"recipes/{name}.py"), launch_file.path, processes, arguments)


@app.command()
def publish(
    file: DOCUMENT,
    adapter: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, metavar="ADAPTER", help="The output_dir of a training run.")
    ],
    name: Annotated[str | None, typer.Option(help="Which of the document's named adapters it is.")] = None,
) -> None:
    """Make a trained adapter the document's current one, as training does at its end."""
    from dlm_trl.export.adapter import open_adapter
    from dlm_trl.notes import read
    from dlm_trl.notes.store import publish_adapter
    from dlm_trl.train.save import adapter_files

    open_adapter(adapter).check_finite()
    say(publish_adapter(read(file).frontmatter.dlm_id, adapter_files(adapter), name))


def _sources(file: Path) -> str:
    """What the document's sources contribute; "" without sources, or if they can't be read, which is a finding."""
    from dlm_trl.notes import read
    from dlm_trl.notes.source_report import parts_table, source_parts

    try:
        parts = source_parts(read(file))
    except DlmError:
        return ""
    return parts_table(parts) if parts else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _recipe(name: str) -> ModuleType:
    """The recipe as a module."""
    spec = spec_from_file_location(f"dlm_trl.recipes.{name}", shipped(f"recipes/{name}.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# In the order in which they are used, after check and train.
app.add_typer(synth.app, name="synth", no_args_is_help=True)
app.command()(review.review)
app.command()(improve.improve)
app.command()(evaluate.evaluate)
app.command()(chat.chat)
app.command()(export.merge)
app.command()(export.quantize)
app.command()(export.verify)
app.command("serve-check")(export.serve_check)
app.command()(push.push)
app.command()(doctor.doctor)


def main() -> None:
    """Entry point."""
    pid = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != pid:  # the worker of a pool: an exception could keep it from ending
            os._exit(128 + number)
        sys.exit(128 + number)  # an exception, so that locks, unfinished folders and subprocesses go, too

    signal.signal(signal.SIGTERM, end)
    try:
        with logging_to_stderr():
            app()
    except DlmError as error:
        say(error, err=True)
        sys.exit(1)
