"""A `.dlm` file: read it, check it, edit it in place. `read(path)` and `parse(text)` give an immutable `Document`.

`document` holds what a file is, `parser` and its parts (`frontmatter`, `schema`, `markers`, `blocks`) how it is read,
`errors` the one error that users see; `edit`, `check`, `sources` and `store` change it, judge it, widen it, and know
where its adapter lies.
"""

from dlm_trl.notes.blocks import Pair, Triple
from dlm_trl.notes.document import Document, Section
from dlm_trl.notes.errors import DlmError
from dlm_trl.notes.parser import parse, read
from dlm_trl.notes.schema import Frontmatter

__all__ = ["DlmError", "Document", "Frontmatter", "Pair", "Section", "Triple", "parse", "read"]
