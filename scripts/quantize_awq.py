"""`dlm-trl quantize` as a script: python scripts/quantize_awq.py MODEL_DIR OUT_DIR --calibration notes.dlm."""

import sys

import typer

from dlm_trl.cli.export import quantize
from dlm_trl.notes import DlmError

if __name__ == "__main__":
    try:
        typer.run(quantize)
    except DlmError as error:
        sys.exit(str(error))
