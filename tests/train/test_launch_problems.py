"""Adapters and quantized bases that don't work with a launch file are refused before any weights are loaded.

The launch file's settings reach a process through the environment, which is what these tests set.
"""

from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from dlm_trl.notes import DlmError
from dlm_trl.train.config import read_configuration
from dlm_trl.train.distributed import prepare_deepspeed
from dlm_trl.train.prepare import prepare

LAUNCH_FILES = Path(__file__).parents[2] / "accelerate_configs"
QLORA, BITS8, ADALORA, DORA = (
    words.split() for words in ("--adapter qlora", "--quantization 8bit", "--adapter adalora", "--adapter dora")
)
ZERO3, FSDP = "quantization .bit with ZeRO-3 .*wrong loss", r"quantization 4bit with FSDP .*issues/1945"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """check(launch file, *settings) checks the settings as a process that was launched with this file."""

    def check(name: str, *settings: str) -> None:
        launch = yaml.safe_load((LAUNCH_FILES / f"{name}.yaml").read_text())
        monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("ACCELERATE_USE_FSDP", str(launch["distributed_type"] == "FSDP").lower())
        if "deepspeed_config" in launch:
            pytest.importorskip("deepspeed")
            monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
            monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(launch["deepspeed_config"]["zero_stage"]))
            prepare_deepspeed()
        argv = ["--task", "arithmetic", "--base_model", "tiny", "--max_steps", "1"]
        prepare(read_configuration([*argv, "--output_dir", str(tmp_path / "out"), *settings]))

    yield check
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("deepspeed_zero3", QLORA, rf"{ZERO3}.* Launch with ddp\.yaml"),
        ("deepspeed_zero3", BITS8, ZERO3),
        ("fsdp2", QLORA, rf"{FSDP}.* Launch with ddp\.yaml"),
        ("deepspeed_zero2", ADALORA, "gradients, which DeepSpeed keeps"),
        ("fsdp2", ADALORA, "gradients of all layers, which FSDP shards"),
    ],
)
def test_what_does_not_work_is_refused(check, name: str, settings: list[str], message: str) -> None:
    with pytest.raises(DlmError, match=message):
        check(name, *settings)


@pytest.mark.parametrize(
    ("name", "settings"), [("deepspeed_zero2", QLORA), ("deepspeed_zero3", DORA), ("fsdp2", DORA), ("ddp", ADALORA)]
)
def test_what_works_is_not(check, name: str, settings: list[str]) -> None:
    check(name, *settings)
