"""Register the builder, so that `load_dataset("dlm_trl/dlm", …)` and `load_dataset("./folder")` find it.

`import dlm_trl` calls `register()`. `datasets` has no plug-in API, so this adds entries to its private tables of
packaged modules. If a release lacks one of them, a warning says what won't work; `dlm_trl.load_dlm` always works.
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
    """A hash of all code that determines the rows, so that rows cached by another version aren't reused."""
    rows = Path(__file__).parent
    digest = hashlib.sha256()
    for module in [rows / "builder.py", rows / "convert.py", *sorted((rows.parent / "notes").glob("*.py"))]:
        digest.update(module.read_bytes())
    return digest.hexdigest()[:32]


def register() -> None:
    """Add the builder to the tables of `datasets`. Idempotent; never replaces someone else's entry."""
    problems = [
        *_add_key("_PACKAGED_DATASETS_MODULES", NAME, (BUILDER_MODULE, revision())),
        *_add_key("_EXTENSION_TO_MODULE", EXTENSION, (NAME, {})),
        *_add_key("_MODULE_TO_EXTENSIONS", NAME, [EXTENSION, ".zip"]),
        *_add_items("_ALL_ALLOWED_EXTENSIONS", [EXTENSION]),
    ]
    # Only needed in releases that have these tables.
    for table in ("_MODULE_TO_METADATA_FILE_NAMES", "_MODULE_TO_METADATA_EXTENSIONS"):
        if table in vars(packaged_modules):
            problems += _add_key(table, NAME, [])
    if "_ALL_EXTENSIONS" in vars(packaged_modules):
        problems += _add_items("_ALL_EXTENSIONS", [EXTENSION])
    if problems:
        warnings.warn(
            f"dlm_trl could not register with datasets ({'; '.join(problems)}), so load_dataset may not read .dlm "
            "files. Use dlm_trl.load_dlm instead.",
            stacklevel=2,
        )


def _add_key(table: str, key: str, value: Any) -> list[str]:
    """Set table[key] unless it is taken; returns the problems."""
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
