"""Optional dependencies: `require_extra("bnb", "Loading in 4 bit")` raises, with the command to run, if one is missing.

Extras are the optional dependency groups of pyproject.toml.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from dlm_trl.notes.errors import MissingExtraError

PACKAGE_FOLDER = Path(__file__).parents[1]
# An extra's package and the module it installs, where either differs from the extra's name.
PACKAGES = {"bnb": "bitsandbytes", "quant": "autoawq"}
MODULES = {"autoawq": "awq"}


def require_extra(extra: str, user: str, package: str | None = None) -> None:
    """Raise MissingExtraError unless the extra's package is installed; nothing is imported.

    user: what needs it, as the subject of the error. package: which one of an extra with several.
    """
    package = package or PACKAGES.get(extra, extra)
    if find_spec(MODULES.get(package, package)) is None:
        raise MissingExtraError(
            f"{user} needs {package}, which isn't installed.", hint=f"Install it: {install_command(extra)}"
        )


def install_command(extra: str) -> str:
    """The command that installs an extra: from the clone if the package runs from one, else from the package index."""
    if (PACKAGE_FOLDER.parent / "pyproject.toml").is_file():
        return f"pip install -c constraints.txt -e '.[{extra}]'"
    return f"pip install 'dlm-trl[{extra}]'"
