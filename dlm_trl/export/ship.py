"""All steps in one go, each checked before the next: `ship(adapter, Path("runs/notes"), "awq", Path("notes.dlm"))`.

    runs/notes → runs/notes-merged → runs/notes-awq

`python -m dlm_trl.export.ship` is the same in a process of its own, which the recipe starts when a run is done.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from dlm_trl.export import awq
from dlm_trl.export.merge import merge
from dlm_trl.export.output_folder import check_out_dir
from dlm_trl.export.verify import verify
from dlm_trl.models.weights import find_weights
from dlm_trl.notes.errors import DlmError, ExportError, UsageError

Target = Literal["merged", "awq"]


def ship(
    adapter_dir: Path,
    name: Path,
    to: Target = "merged",
    calibration: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Merge, check, and for "awq" quantise and check; returns the folder of the last model.

    name: the folders are called like it, with -merged and -awq behind. calibration: see `awq.quantize`. Raises DlmError
    (ExportError) for a step that fails its check, with what each step raises.
    """
    merged, quantized = _folders(name)
    merge(adapter_dir, merged, progress=True)
    result = _checked(adapter_dir, merged, say)
    if to == "merged":
        return result
    if calibration is None:
        raise UsageError("AWQ has nothing to calibrate with.", hint="Name a document or rows.")
    awq.quantize(merged, quantized, calibration, progress=True)
    return _checked(merged, quantized, say)


def check(base_model: str, name: Path, to: Target) -> None:
    """What can be known before the training: that the base can be merged, quantised where that is wanted, and put where
    it is to lie. Raises DlmError as `ship` would.
    """
    weights = find_weights(base_model)
    if to == "awq":
        awq.check_installed()
        awq.check(weights.folder)
    for folder in _folders(name):
        check_out_dir(folder, [weights.folder])


def _folders(name: Path) -> tuple[Path, Path]:
    folder = name.expanduser().resolve()  # "." has a name, too
    return folder.with_name(f"{folder.name}-merged"), folder.with_name(f"{folder.name}-awq")


def _checked(before: Path, after: Path, say: Callable[[str], None]) -> Path:
    found = verify(before, after)
    say(f"{before} → {after}\n{found}")
    if found.failed:
        said = "; ".join(f"{check.name}: {check.failing}" for check in found.failed)
        raise ExportError(f"{found.step} failed its check: {said}.", path=after)
    return after


def _main(
    adapter_dir: Path, name: Path, to: Annotated[str, typer.Option()] = "merged", calibration: Path | None = None
) -> None:
    ship(adapter_dir, name, to, calibration, typer.echo)


if __name__ == "__main__":
    try:
        typer.run(_main)
    except DlmError as error:
        sys.exit(str(error))
