"""Settings: precedence of the sources, derived defaults, the printed table, and errors."""

import json
import shutil
from pathlib import Path

import pytest

from dlm_trl.models import precision
from dlm_trl.notes import DlmError
from dlm_trl.train.config import Configuration, learning_rate, read_configuration
from dlm_trl.train.settings import GLOBAL_BATCH, auto_batches, print_settings

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n{training}---\nProse.\n"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """read(training block, YAML text, *command line) returns the configuration."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def read(training: str = "", config: str = "", *argv: str) -> Configuration:
        lines = "".join(f"  {line}\n" for line in training.splitlines())
        (tmp_path / "notes.dlm").write_text(HEAD.format(training=f"training:\n{lines}" if training else ""))
        settings = f"notes: {tmp_path / 'notes.dlm'}\noutput_dir: {tmp_path / 'o'}\n{config}"
        (tmp_path / "run.yaml").write_text(settings, encoding="latin-1")
        return read_configuration(["--config", str(tmp_path / "run.yaml"), *argv])

    return read


def test_precedence_is_command_line_yaml_document_default(read) -> None:
    document = "lora_r: 3\nlearning_rate: 2e-3\nnum_epochs: 5\nseed: 7"
    configuration = read(document, "learning_rate: 3e-3\nnum_train_epochs: 6\n", "--num_train_epochs", "8")
    assert (
        configuration.adapter.lora_r,
        configuration.training.learning_rate,
        configuration.training.num_train_epochs,
    ) == (3, 3e-3, 8)
    assert configuration.training.seed == 7
    sources = {name: setting.source for name, setting in configuration.settings.items()}
    assert (sources["lora_r"], sources["seed"]) == ("notes.dlm:6", "notes.dlm:9")
    assert sources["learning_rate"].endswith("run.yaml:3")
    assert sources["num_train_epochs"] == "command line"
    assert sources["lora_alpha"] == sources["warmup_steps"] == "default"


def test_every_training_key_of_the_document_is_used(read) -> None:
    configuration = read(
        "adapter: dora\nlora_r: 3\nlora_alpha: 5\nlora_dropout: 0.25\ntarget_modules: [q_proj]\nsequence_len: 99\n"
        "micro_batch_size: 2\ngrad_accum: 3\nlearning_rate: 0.5\nnum_epochs: 9\noptimizer: adamw_torch\n"
        "lr_scheduler: linear\nwarmup_ratio: 0.3\nprecision: fp32\nseed: 11"
    )
    adapter, training = configuration.adapter, configuration.training
    assert (adapter.adapter, adapter.lora_r, adapter.lora_alpha, adapter.lora_dropout) == ("dora", 3, 5, 0.25)
    assert adapter.target_modules == ["q_proj"]
    assert (training.max_length, training.per_device_train_batch_size, training.gradient_accumulation_steps) == (
        99,
        2,
        3,
    )
    assert (training.learning_rate, training.num_train_epochs, training.seed) == (0.5, 9, 11)
    assert (training.optim, training.lr_scheduler_type.value, training.warmup_steps) == ("adamw_torch", "linear", 0.3)
    assert not training.bf16
    assert not training.fp16


def test_defaults_of_missing_keys(read) -> None:
    configuration = read()
    assert (configuration.training.num_train_epochs, configuration.training.max_length) == (3, 2048)
    assert (configuration.adapter.lora_r, configuration.adapter.lora_alpha, configuration.adapter.lora_dropout) == (
        32,
        64,
        0.0,
    )


def test_the_default_learning_rate_depends_on_the_bases_width(
    read, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it retries without a network
    assert [learning_rate(width) for width in (192, 576, 2048, 4096)] == [3e-3, 1.3e-3, 4.9e-4, 2.9e-4]
    configuration = read("", f"base_model: {random_base}\n")
    assert configuration.training.learning_rate == learning_rate(64)
    assert configuration.settings["learning_rate"].source == "default for a base of width 64"
    assert read("learning_rate: 0.5").training.learning_rate == 0.5
    assert read("", "base_model: hf:nobody/nothing\n").training.learning_rate == 2e-4


def test_a_16_bit_base_is_trained_in_bfloat16_if_the_cpu_supports_it(
    read, tmp_path: Path, random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "half"
    shutil.copytree(random_base, half)
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    for has, base, expected in ((True, half, True), (True, random_base, False), (False, half, False)):
        monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda has=has: has)
        assert read("", f"base_model: {base}\n").training.bf16 is expected
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    assert read("precision: fp32", f"base_model: {half}\n").training.bf16 is False


def test_task_rows_on_disk_keep_their_order(read) -> None:
    configuration = read("", "rows: none\nprose: false\ntask_rows: runs/rows\n")
    assert configuration.training.train_sampling_strategy == "sequential"
    assert read().training.train_sampling_strategy == "batch_rebalance"


@pytest.mark.parametrize("world", [1, 2, 4, 16, 32])
def test_auto_batches_give_the_same_step_for_any_number_of_processes(world: int) -> None:
    micro, steps = auto_batches("auto", "auto", world)
    assert micro * steps * world == max(GLOBAL_BATCH, world)
    assert auto_batches(3, "auto", 1) == (3, 5)
    assert auto_batches("auto", 4, 1) == (4, 4)
    assert auto_batches(3, 7, world) == (3, 7)


def test_qlora_and_automatic_target_modules(read) -> None:
    configuration = read("adapter: qlora\ntarget_modules: auto")
    assert (configuration.adapter.quantization, configuration.adapter.target_modules) == ("4bit", None)
    assert read("adapter: qlora", "quantization: 8bit\n").adapter.quantization == "8bit"
    assert read("", "target_modules: [k_proj, v_proj]\n").adapter.target_modules == ["k_proj", "v_proj"]


def test_a_named_adapter_has_its_own_settings(read) -> None:
    named = "adapters:\n  facts:\n    lora_r: 5\n    learning_rate: 0.01\n  tone:\n    adapter: dora"
    facts, tone = read(named, "adapter_name: facts\n"), read(named, "", "--adapter_name", "tone")
    assert (facts.adapter.lora_r, facts.training.learning_rate) == (5, 0.01)
    assert (tone.adapter.adapter, tone.adapter.lora_r) == ("dora", 32)
    with pytest.raises(DlmError, match="facts, tone"):
        read(named)


@pytest.mark.parametrize(
    ("config", "argv", "words"),
    [
        ("learning_rte: 1\nlora: 2\n", [], ["'learning_rte'. Did you mean 'learning_rate'", "'lora'"]),
        ("", ["--lora_rr=2"], ["'lora_rr'. Did you mean 'lora_r'"]),
        ("", ["stray"], ["'stray' is not an option"]),
        ("adapter: lara\n", [], ["adapter is 'lara'", "dora"]),
        ("lora_r: many\n", [], ["run.yaml", "lora_r", "many"]),
        ("lora_r: 8.5\n", [], ["lora_r", "'8.5'"]),
        ("lora_r: [8]\n", [], ["lora_r", "[8]"]),
        ("prose: 7.5\n", [], ["prose", "7.5"]),
        ("per_device_train_batch_size: four\n", [], ["per_device_train_batch_size", "four"]),
        ("per_device_train_batch_size: 0\n", [], ["run.yaml:3", "per_device_train_batch_size is 0", "at least 1"]),
        ("", ["--gradient_accumulation_steps", "0"], ["command line", "gradient_accumulation_steps is 0"]),
        ("", ["--max_questions", "0"], ["max_questions is 0"]),
        ("", ["--eval_steps", "0"], ["eval_steps is 0"]),
        ("max_length: null\n", [], ["max_length has no value"]),
        ("env: [A]\n", [], ["env must be a mapping", "run.yaml"]),
        ("task: sch\xf6n\n", [], ["Not UTF-8", "run.yaml"]),
        ("lora_r: [\n", [], ["Not YAML", "run.yaml:"]),
        ("save_strategy: sometimes\n", [], ["sometimes"]),
    ],
)
def test_each_invalid_setting_is_one_line_of_the_error(read, config: str, argv: list[str], words: list[str]) -> None:
    with pytest.raises(DlmError) as caught:
        read("", config, *argv)
    lines = str(caught.value).splitlines()
    assert len(lines) == (2 if "lora: 2" in config else 1)
    for word in words:
        assert word in str(caught.value)


def test_yaml_values_are_parsed_like_the_command_lines_or_kept_as_mappings(read) -> None:
    configuration = read(
        "",
        "resume_from_checkpoint: true\ntarget_modules: auto\nconditions: [5]\nlearning_rate: 1e-3\nprose: off\n"
        "stages: [{choices: 5}]\nreport_to: [tensorboard]\nlr_scheduler_kwargs: {a: 1}\ndata_seed: null\n"
        "per_device_train_batch_size: auto\nlabel_names: x\n",
    )
    training = configuration.training
    assert (training.resume_from_checkpoint, training.learning_rate, training.label_names) == ("True", 1e-3, ["x"])
    assert (training.report_to, training.lr_scheduler_kwargs, training.data_seed) == (["tensorboard"], {"a": 1}, None)
    assert (configuration.adapter.target_modules, configuration.notes.prose) == (None, False)
    assert (configuration.task.conditions, configuration.task.stages) == (["5"], [{"choices": 5}])


def test_secrets_are_hidden_in_the_table(read, capsys: pytest.CaptureFixture[str]) -> None:
    print_settings(read("", "hub_token: hf_abc\n"))
    assert "hub_token" in (printed := capsys.readouterr().out)
    assert "hf_abc" not in printed


def test_every_setting_has_help_and_a_row_in_the_table(read, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_configuration(["--help"])
    assert "--adalora_warmup" in capsys.readouterr().out
    configuration = read("lora_r: 3")
    configuration.change("max_length", 64, "lowered")
    print_settings(configuration)
    table = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert {*vars(configuration.notes), *vars(configuration.adapter)} <= table.keys()
    assert "64" in table["max_length"]
    assert "lowered" in table["max_length"]
    assert configuration.training.max_length == 64


def test_the_yaml_sets_environment_variables(read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TEST", "")
    read("", "env:\n  A_TEST: 1\n")
    import os

    assert os.environ["A_TEST"] == "1"
