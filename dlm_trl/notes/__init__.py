"""Read, check and edit `.dlm` files. `read(path)` and `parse(text)` return an immutable `Document`.

`document` defines the data model; `parser`, `frontmatter`, `schema`, `markers` and `blocks` read it; `errors` has the
exceptions users see. `edit` changes a file in place, `check` finds its problems, `sources` adds the files it refers to,
and `store` locates its adapters, ledger and staged pairs.
"""

from dlm_trl.notes.blocks import Pair, Triple
from dlm_trl.notes.document import Document, Section
from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.parser import parse, read
from dlm_trl.notes.schema import Frontmatter

__all__ = ["DlmError", "Document", "Frontmatter", "Pair", "Section", "Triple", "parse", "read"]
