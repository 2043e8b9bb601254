"""All steps of the export in one go, each checked before the next one starts.

    ship(Path("runs/notes"), Path("runs/notes"), "awq", Path("notes.dlm"))    # runs/notes-merged, runs/notes-awq

`python -m dlm_trl.export.ship` does the same in a fresh process; the recipe runs it after training.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dlm_trl.export.output_folder import check_out_dir
from dlm_trl.export.protocol import ExportStep
from dlm_trl.export.steps import chain
from dlm_trl.export.verify import verify
from dlm_trl.models.weights import find_weights
from dlm_trl.notes.errors import DlmError, ExportError
from dlm_trl.notes.terminal import logging_to_stderr, say


def ship(
    adapter_dir: Path,
    name: Path,
    to: str = "merged",
    calibration: Path | None = None,
    say: Callable[[str], None] = say,
) -> Path:
    """Run all steps from an adapter to the target `to`, and check each one; returns the folder of the last model.

    name: the folders get this name and the target of their step, such as NAME-merged and NAME-awq. calibration: see
    `awq.quantize`. Raises DlmError: ExportError for a step that fails its check, and what the steps raise.
    """
    before = adapter_dir
    for step in chain(to):
        after = _folder(name, step)
        step.run(before, after, calibration)
        _verify(before, after, say)
        before = after
    return before


def check(base_model: str, name: Path, to: str) -> None:
    """Before training: can this base go through all steps, and can the results be written?

    Raises the DlmError that `ship` would.
    """
    weights = find_weights(base_model)
    steps = chain(to)
    for step in steps:
        step.check_base(weights.folder)
    for step in steps:
        check_out_dir(_folder(name, step), [weights.folder])


def _folder(name: Path, step: ExportStep) -> Path:
    path = name.expanduser().resolve()  # also gives "." a name
    return path.with_name(f"{path.name}-{step.target}")


def _verify(before: Path, after: Path, say: Callable[[str], None]) -> None:
    result = verify(before, after)
    say(f"{before} → {after}\n{result}")
    if result.failed:
        failures = "; ".join(f"{check.name}: {check.failing}" for check in result.failed)
        raise ExportError(f"{result.step} failed its check: {failures}.", path=after)


def _main(
    adapter_dir: Path, name: Path, to: Annotated[str, typer.Option()] = "merged", calibration: Path | None = None
) -> None:
    ship(adapter_dir, name, to, calibration)


if __name__ == "__main__":
    try:
        with logging_to_stderr():
            typer.run(_main)
    except DlmError as error:
        sys.exit(str(error))
