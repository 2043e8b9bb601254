"""`dlm-trl merge` as a script: python scripts/merge_lora.py ADAPTER_DIR OUT_DIR [--base MODEL] [--shard-size 4GB]."""

import sys

import typer

from dlm_trl.cli.export import merge
from dlm_trl.notes import DlmError

if __name__ == "__main__":
    try:
        typer.run(merge)
    except DlmError as error:
        sys.exit(str(error))
