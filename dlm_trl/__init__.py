"""Notes go in, a trained adapter comes out. Importing the package teaches `datasets.load_dataset` to read `.dlm` files:

    import dlm_trl
    rows = load_dataset("dlm_trl/dlm", data_files="notes.dlm")
    rows = dlm_trl.load_dlm("notes.dlm")

Without the import, the name `dlm_trl/dlm` is looked up on the Hub. Neither torch nor transformers is loaded by it.
"""

from dlm_trl.rows.load import load_dlm
from dlm_trl.rows.register import register

__all__ = ["load_dlm"]
__version__ = "0.1.0"

register()
