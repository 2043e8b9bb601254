"""Files of one validated JSON record per line, which are replaced as a whole: `read_records(path, adapter, …)`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dlm_trl.notes.errors import StagingError
from dlm_trl.notes.parser import read_bytes

Record = TypeVar("Record")


def read_records(path: Path, adapter: TypeAdapter[Record], what: str, hint: str) -> list[Record]:
    """The records in the file's order; none if it doesn't exist.

    Raises DlmError (StagingError) for the first line that isn't a record; `what` names it, and hint says what to do.
    """
    if not os.path.exists(path):
        return []
    records = []
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        try:
            records.append(adapter.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            raise StagingError(
                f"The line isn't {what}: {'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}.",
                hint=hint,
                path=path,
                line=number,
            ) from None
    return records
