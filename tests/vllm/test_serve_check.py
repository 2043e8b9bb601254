"""From a trained adapter to a real vLLM: the printed line serves it, and the server says what verify recorded."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlm_trl.cli.main import app
from dlm_trl.export.verify import EXPECTED_ANSWERS
from dlm_trl.models import lineage
from tests.vllm.conftest import Serve

ROOT = Path(__file__).parents[2]
QUANT = ROOT / ".venv-quant" / "bin" / "python"
# So many steps that answers are those of the notes: short, and ended by the stop token.
SHORT = ("bf16=true", "max_steps=24", "learning_rate=1e-3", "measure=false")


def dlm_trl(*words: object, python: Path | str = sys.executable) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own, as training changes the process that it runs in."""
    return subprocess.run([str(python), "-m", "dlm_trl", *map(str, words)], cwd=ROOT)


@pytest.fixture(scope="session")
def document(serve: Serve, notes: Callable[[int], Path]) -> Path:
    return notes(4)


@pytest.fixture(scope="session")
def merged(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, merged and verified."""
    folder = tmp_path_factory.mktemp("runs")
    adapter, merged = folder / "adapter", folder / "merged"
    assert dlm_trl("train", document, f"output_dir={adapter}", *SHORT).returncode == 0
    assert dlm_trl("merge", adapter, merged).returncode == 0
    assert dlm_trl("verify", adapter, merged).returncode == 0
    assert (merged / EXPECTED_ANSWERS).is_file()
    return merged


@pytest.fixture(scope="session")
def awq(document: Path, merged: Path) -> Path:
    """The same in 4 bits, for which verify may fail a model this small; what it said is recorded all the same."""
    if not QUANT.exists():
        pytest.skip("needs autoawq: make test-quant installs it, in .venv-quant")
    out = merged.with_name("awq")
    quantized = dlm_trl("quantize", merged, out, "--calibration", document, "--group-size", 64, python=QUANT)
    assert quantized.returncode == 0
    dlm_trl("verify", merged, out, python=QUANT)
    assert (out / EXPECTED_ANSWERS).is_file()
    return out


def test_the_printed_line_serves_the_merged_model(serve: Serve, merged: Path) -> None:
    holds_what_was_verified(serve, merged)


def test_the_printed_line_serves_the_awq_model(serve: Serve, awq: Path) -> None:
    holds_what_was_verified(serve, awq)


def holds_what_was_verified(serve: Serve, folder: Path) -> None:
    line = lineage.read(folder)[-1]["serve"]
    assert line in (folder / "README.md").read_text(encoding="utf-8")
    with serve(line) as (url, _):
        ran = CliRunner().invoke(app, ["serve-check", f"{url}/v1", str(folder), "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["model"] == folder.name
    assert [check["value"] >= 0.9 for check in found["checks"]] == [True, True]
    asked = json.loads((folder / EXPECTED_ANSWERS).read_text(encoding="utf-8"))["answers"]
    assert len(asked) == 16 and any(row["ended"] for row in asked)
