"""Files that are at the root of a clone and inside an installed package: recipes, launch files, known versions."""

from __future__ import annotations

from pathlib import Path

from dlm_trl.notes.extras import PACKAGE_FOLDER


def shipped(name: str) -> Path:
    """Where a file or folder such as `recipes/sft.py` is."""
    inside = PACKAGE_FOLDER / name
    return inside if inside.exists() else PACKAGE_FOLDER.parent / name
