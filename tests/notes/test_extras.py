"""Optional dependencies: a missing one is reported with the command that installs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from dlm_trl.notes import extras
from dlm_trl.notes.errors import MissingExtraError
from dlm_trl.notes.extras import require_extra


def test_an_installed_extra_passes_without_being_imported() -> None:
    program = (
        "import sys; from dlm_trl.notes.extras import require_extra; require_extra('openai', 'A test', 'wave')\n"
        "print('wave' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("extra", "package", "named"),
    [("openai", None, "openai"), ("bnb", None, "bitsandbytes"), ("quant", None, "autoawq"), ("tracking", "no", "no")],
)
def test_a_missing_extra_names_its_package(
    monkeypatch: pytest.MonkeyPatch, extra: str, package: str | None, named: str
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=f"^This run needs {named}, which isn't installed. Install it: pip"):
        require_extra(extra, "This run", package)


def test_the_command_installs_from_a_clone_or_from_the_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert extras.install_command("bnb") == "pip install -c constraints.txt -e '.[bnb]'"
    monkeypatch.setattr(extras, "PACKAGE_FOLDER", tmp_path / "site-packages" / "dlm_trl")
    assert extras.install_command("bnb") == "pip install 'dlm-trl[bnb]'"
