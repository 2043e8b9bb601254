"""Settings of recipes/dpo.py: the document's block `training.preference`, and what overrides it."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from trl import DPOConfig

from dlm_trl.notes import DlmError
from dlm_trl.train.preference_config import PreferenceConfiguration, read_preference_configuration
from dlm_trl.train.prepare_preferences import LOSSES

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n{training}---\nProse.\n"


@pytest.fixture
def read(tmp_path: Path, trained_adapter: Path, monkeypatch: pytest.MonkeyPatch):
    """read(training block, YAML text, *command line) returns the configuration."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))

    def read(training: str = "", config: str = "", *argv: str, start: bool = True) -> PreferenceConfiguration:
        lines = "".join(f"  {line}\n" for line in training.splitlines())
        (tmp_path / "notes.dlm").write_text(HEAD.format(training=f"training:\n{lines}" if training else ""))
        (tmp_path / "run.yaml").write_text(f"notes: {tmp_path / 'notes.dlm'}\n{config}")
        more = ["--adapter_from", str(trained_adapter)] if start else []
        return read_preference_configuration(["--config", str(tmp_path / "run.yaml"), *more, *argv])

    return read


def test_precedence_is_command_line_yaml_document_default(read) -> None:
    block = "preference:\n  loss_type: ipo\n  reference: base\n  hyperparams:\n    beta: 0.3\n    num_epochs: 2"
    found = read(f"seed: 7\n{block}", "num_train_epochs: 4\nbeta: 0.4\n", "--beta", "0.5")
    training, sources = found.training, {name: setting.source for name, setting in found.settings.items()}
    assert (training.beta, training.num_train_epochs, training.loss_type, training.seed) == (0.5, 4, ["ipo"], 7)
    assert found.notes.reference == "base"
    assert (sources["beta"], sources["loss_type"], sources["seed"]) == ("command line", "notes.dlm:8", "notes.dlm:6")
    assert sources["num_train_epochs"].endswith("run.yaml:2")
    assert read(block).settings["beta"].source == "notes.dlm:10"
    assert read(block).training.beta == 0.3


def test_the_learning_rate_and_epochs_of_fine_tuning_dont_count(read) -> None:
    found = read("learning_rate: 0.5\nnum_epochs: 9\nlora_r: 3\nsequence_len: 99")
    assert found.training.learning_rate != 0.5
    assert found.training.num_train_epochs != 9
    assert found.training.max_length == 99
    assert read("preference:\n  hyperparams:\n    learning_rate: 0.25").training.learning_rate == 0.25


def test_the_method_orpo_becomes_the_nearest_losses_of_the_trainer(read) -> None:
    found = read("preference:\n  method: orpo\n  hyperparams:\n    alpha: 0.3")
    training = found.training
    assert (training.loss_type, training.loss_weights, training.beta) == (["sft", "sigmoid_norm"], [1.0, 0.3], 1.0)
    assert found.settings["loss_type"].source == "notes.dlm:7 (orpo)"
    assert read("preference:\n  method: orpo", "loss_type: hinge\nloss_weights: null\n").training.loss_type == ["hinge"]
    with pytest.raises(DlmError, match=r"notes.dlm:8: training.preference.loss_type is for the method dpo"):
        read("preference:\n  method: orpo\n  loss_type: hinge")


def test_preferences_that_the_document_switches_off_are_not_trained(read) -> None:
    with pytest.raises(DlmError, match=r"notes.dlm:7: training.preference.enabled is false"):
        read("preference:\n  enabled: false")
    assert read("preference:\n  enabled: true").training.beta == 0.1


def test_without_an_adapter_the_error_says_how_to_train_one(read) -> None:
    with pytest.raises(DlmError, match=r"Train one: dlm-trl train .*notes.dlm; or name its folder: --adapter_from"):
        read(start=False)
    with pytest.raises(DlmError, match="Did you mean 'adapter_from'"):
        read("", "adapter_form: x\n")


def test_losses_are_those_of_the_installed_trl() -> None:
    help = next(f.metadata["help"] for f in fields(DPOConfig) if f.name == "loss_type")
    assert set(LOSSES) == set(re.findall(r"`'(\w+)'`", help))
