"""Show the rows that a trainer gets from documents through `load_dataset`.

python scripts/show_rows.py recipes/notes.dlm
python scripts/show_rows.py recipes/notes.dlm --kind prose --rows 2
"""

from typing import Annotated

import typer
from datasets import load_dataset
from rich import print as show

import dlm_trl  # noqa: F401 (registers the builder with `load_dataset`)
from dlm_trl.notes import DlmError


def main(data_files: list[str], kind: str = "sft", rows: Annotated[int, typer.Option(min=1)] = 3) -> None:
    """Print the number of rows of this kind in the documents, and the first few rows."""
    try:
        dataset = load_dataset("dlm_trl/dlm", kind, data_files=data_files, split="train")
    except (DlmError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    show(f'load_dataset("dlm_trl/dlm", "{kind}", data_files={data_files}, split="train"): {len(dataset)} rows')
    for row in dataset.select(range(min(rows, len(dataset)))):
        show({name: value for name, value in row.items() if value not in (None, [], {})})


if __name__ == "__main__":
    typer.run(main)
