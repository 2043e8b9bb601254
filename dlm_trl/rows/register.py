"""Makes `load_dataset("dlm_trl/dlm", …)` and `load_dataset("./folder")` find the builder; `import dlm_trl` calls
`register()`.

`datasets` has no plug-in API, so this adds our entries, in place, to its private tables of packaged modules. Where a
table is missing in another release, one warning says what will not work; `dlm_trl.load_dlm` works in any case.
Without `import dlm_trl`, the name `dlm_trl/dlm` is looked up on the Hub.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from datasets import packaged_modules

NAME = "dlm_trl/dlm"
BUILDER_MODULE = "dlm_trl.rows.builder"
EXTENSION = ".dlm"


@cache
def revision() -> str:
    """A hash of all the code that decides what the rows are: rows cached by other code are not used again."""
    rows = Path(__file__).parent
    digest = hashlib.sha256()
    for module in [rows / "builder.py", rows / "convert.py", *sorted((rows.parent / "notes").glob("*.py"))]:
        digest.update(module.read_bytes())
    return digest.hexdigest()[:32]


def register() -> None:
    """Add the builder to the tables of `datasets`; twice is harmless, and an entry that is somebody else's stays."""
    problems = [
        *_add_key("_PACKAGED_DATASETS_MODULES", NAME, (BUILDER_MODULE, revision())),
        *_add_key("_EXTENSION_TO_MODULE", EXTENSION, (NAME, {})),
        *_add_key("_MODULE_TO_EXTENSIONS", NAME, [EXTENSION, ".zip"]),
        *_add_items("_ALL_ALLOWED_EXTENSIONS", [EXTENSION]),
    ]
    # Only some releases have these, and only those need them.
    for table in ("_MODULE_TO_METADATA_FILE_NAMES", "_MODULE_TO_METADATA_EXTENSIONS"):
        if table in vars(packaged_modules):
            problems += _add_key(table, NAME, [])
    if "_ALL_EXTENSIONS" in vars(packaged_modules):
        problems += _add_items("_ALL_EXTENSIONS", [EXTENSION])
    if problems:
        warnings.warn(
            f"dlm_trl could not register itself with datasets ({'; '.join(problems)}), so load_dataset may not read "
            ".dlm files. dlm_trl.load_dlm reads them all the same.",
            stacklevel=2,
        )


def _add_key(table: str, key: str, value: Any) -> list[str]:
    """Set table[key] where it is free; returns what was in the way."""
    entries = vars(packaged_modules).get(table)
    if not isinstance(entries, dict):
        return [f"it has no table {table}"]
    if entries.setdefault(key, value) != value:
        return [f"{table}[{key!r}] is taken by {entries[key]!r}"]
    return []


def _add_items(table: str, items: list[str]) -> list[str]:
    entries = vars(packaged_modules).get(table)
    if not isinstance(entries, list):
        return [f"it has no table {table}"]
    entries.extend(item for item in items if item not in entries)
    return []
