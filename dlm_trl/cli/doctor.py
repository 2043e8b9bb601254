"""`dlm-trl doctor`: what works on this machine. The checks are in `dlm_trl.doctor`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dlm_trl.notes.escape import printable_json
from dlm_trl.notes.terminal import console, say

if TYPE_CHECKING:
    from rich.table import Table

    from dlm_trl.doctor.finding import Finding


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what works on this machine, what doesn't, and what to do about it.

    Looks at Python and packages (versions against those that are known to work
    together, and whether they can be imported), processor and GPUs, memory, disk
    and the store, access to the Hub, and at which launch files can work here.
    Nothing is installed or changed.

    Exit codes: 0 training on a document can work, 1 it can't.
    """
    with console(stderr=True).status("looking around; importing packages takes half a minute"):
        from dlm_trl.doctor import launch_files
        from dlm_trl.doctor.machine import check_machine
        from dlm_trl.doctor.packages import check_packages

        findings = check_machine() + check_packages()
        machine = launch_files.here()
        launch = {file.path.name: launch_files.obstacle(file, machine) for file in launch_files.launch_files()}
    works = not any(finding.state == "problem" for finding in findings)
    if json_:
        say(printable_json({"works": works, "findings": [asdict(one) for one in findings], "launch_files": launch}))
    else:
        shown = console(width=None if sys.stdout.isatty() else 160)
        shown.print(_findings(findings))
        shown.print(_launch(launch))
        say(
            "Training on a document works here."
            if works
            else "Training on a document can't work here yet: see problem."
        )
    raise typer.Exit(0 if works else 1)


def _findings(findings: list[Finding]) -> Table:
    from rich.table import Table

    table = Table()
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for one in findings:
        table.add_row(one.state, one.about, one.found, one.remedy)
    return table


def _launch(launch: dict[str, str | None]) -> Table:
    from rich.table import Table

    table = Table(title="accelerate launch --config_file accelerate_configs/…")
    table.add_column("file")
    table.add_column("works here")
    for name, obstacle in launch.items():
        table.add_row(name, "yes" if obstacle is None else f"no: it {obstacle}")
    return table
