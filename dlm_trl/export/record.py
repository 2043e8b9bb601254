"""lineage.json and the model card of an exported model: read and written together."""

from collections.abc import Sequence
from pathlib import Path

from dlm_trl.export.model_card import model_card
from dlm_trl.export.step_info import INFO
from dlm_trl.models import lineage
from dlm_trl.notes.files import replace_file


def read_lineage(folder: Path) -> list[lineage.Step]:
    """The records of all steps that led to this folder, [] without a lineage.json.

    Raises DlmError (LineageError) if a record lacks a field that later steps read.
    """
    return lineage.read(folder, lineage.FIELDS | {name: info.fields for name, info in INFO.items()})


def write_lineage(folder: Path, records: Sequence[lineage.Step], name: str) -> None:
    """Write lineage.json and README.md into a folder with a model; `name` is the path it will be served from."""
    lineage.write(folder, records)
    replace_file(folder / "README.md", model_card(folder, records, name).encode())
