"""Wrong settings, in the YAML, the document and on the command line: an error that names the setting and its source."""

from pathlib import Path

import pytest

from dlm_trl.notes import DlmError
from dlm_trl.train.config import read_configuration
from dlm_trl.train.prepare import prepare
from recipes import sft

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n{training}---\n"
BODY = "The west pump is bled on Monday.\n\n::instruction::\n### Q\nWhat is bled?\n### A\nThe west pump.\n"

COUNTS = [
    "lora_r", "lora_alpha", "max_length",
    "per_device_train_batch_size", "gradient_accumulation_steps", "save_total_limit",
    "max_questions", "condition_questions", "stage_window", "world_size", "dataloader_prefetch_factor",
]  # fmt: skip
POSITIVE = [
    "learning_rate",
    "adam_epsilon",
    "num_train_epochs",
    "logging_steps",
    "save_steps",
    "eval_steps",
]
SHARES = ["lora_dropout", "adam_beta1", "adam_beta2", "label_smoothing_factor", "validation_fraction", "adalora_warmup"]
AT_LEAST_0 = ["seed", "weight_decay", "max_grad_norm", "rehearsal", "warmup_steps", "dataloader_num_workers"]
NUMBERS = [*COUNTS, *POSITIVE, *SHARES, *AT_LEAST_0]
NOT_NUMBERS = ["many", "[1]", "2024-13-45"]
OUT_OF_RANGE = [
    *((name, value) for name in COUNTS for value in ("0", "-1")),
    *((name, value) for name in POSITIVE for value in ("0", "-1", ".nan", ".inf")),
    *((name, value) for name in SHARES for value in ("-0.1", "1", ".nan")),
    *((name, "-1") for name in AT_LEAST_0),
    ("seed", "4294967296"),
    ("synthetic_fraction", "0"),
    ("stage_accuracy", "1.5"),
]
YAML = [
    "use_liger_kernel: true", "accelerator_config: {split_batches: true}",
    *(f"{name}: {value}" for name in NUMBERS for value in NOT_NUMBERS),
    "adapter: nope", "quantization: 3bit", "rows: nope", "split_method: nope", "optim: nope", "lr_scheduler_type: nope",
    "save_strategy: sometimes", "packing_strategy: nope", "prose: maybe", "bf16: 7.5", "output_dir:", "output_dir: [1]",
    "base_model: nope", "base_model: [tiny]", "target_modules: []", "target_modules: [lm_head]",
    "target_modules: [nope]", "questions: nope.jsonl", "rehearsal_text: nope.txt", "rehearsal_text: nope\nrehearsal: 1",
    "task: nope", "task: nope.py:X", "stages: [3]", "conditions: [5]", "glosses: nope.json", "notes: nope.dlm",
    "chat_template_path: nope", "chat_template_path: /", "resume_from_checkpoint: nope",
    "fsdp: nope", "accelerator_config: nope", "accelerator_config: {nope: 1}", "load_best_model_at_end: true\n"
    "eval_strategy: 'no'", "bf16: true\nfp16: true", "dataloader_persistent_workers: true", "model_init_kwargs: {}",
    "completion_only_loss: false", "assistant_only_loss: true", "dataset_text_field: prose", "warmup_ratio: 0.1",
    "max_seq_length: 3", "evaluation_strategy: epoch", "lora_rank: 8", "env: [A]", "env: {A=B: 1}", "env: {'': 1}",
]  # fmt: skip
NOT_SETTINGS = [
    "seed: !!int x", "seed: !!python/object:os.system {}", "seed: 1\nseed: 2", "- 1", "\tseed: 1", "seed: [", "*a",
    "? [a]\n: b\nseed", "text",
]  # fmt: skip
DOCUMENT = [
    "seed: -1", "seed: x", "learning_rate: 0", "learning_rate: .inf", "lora_r: 0", "lora_alpha: 0", "lora_dropout: 1",
    "num_epochs: 0", "micro_batch_size: 0", "grad_accum: 0", "sequence_len: 1", "optimizer: nope", "precision: int4",
    "warmup_ratio: 2", "adapter: nope", "target_modules: []", "target_modules: [lm_head]", "adapters: {}",
    "adapters: {a: {}}", "sources: [3]", "lora_rank: 8",
]  # fmt: skip
COMMAND_LINE = [
    "--seed -1", "--seed x", "--learning_rate nan", "--learning_rate 0", "--lora_r 0", "--lora_dropout 1", "--nope 1",
    "--seed", "--target_modules", "--stages {", "--prose maybe", "--report_to", "stray",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """run(YAML lines, lines of the training block, *command line) reads and checks the settings."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))

    def run(config: str = "", training: str = "", *argv: str) -> None:
        block = "".join(f"  {line}\n" for line in training.splitlines())
        (tmp_path / "a.dlm").write_text(HEAD.format(training=f"training:\n{block}" if block else "") + BODY)
        (tmp_path / "run.yaml").write_text(f"{config}\n")
        notes = ["--notes", str(tmp_path / "a.dlm")] if "notes:" not in config else []
        out = ["--output_dir", str(tmp_path / "out")] if "output_dir" not in config else []
        prepare(read_configuration(["--config", str(tmp_path / "run.yaml"), *notes, *out, *argv]))

    return run


def problem(capfd: pytest.CaptureFixture[str], run, *settings: str) -> str:
    """The error for these settings."""
    with pytest.raises(DlmError) as caught:
        run(*settings)
    assert "Traceback" not in str(caught.value) and "WARNING" not in capfd.readouterr().err
    return str(caught.value)


@pytest.mark.parametrize("config", YAML)
def test_in_the_yaml(run, capfd: pytest.CaptureFixture[str], config: str) -> None:
    message = problem(capfd, run, config)
    name, _, value = config.splitlines()[0].partition(":")
    value = value.strip(" '[]").split(":")[0]
    assert name in message or (value and value in message)


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_reported_with_its_line(run, capfd: pytest.CaptureFixture[str], name, value) -> None:
    message = problem(capfd, run, f"# A comment.\n{name}: {value}")
    assert f"run.yaml:2: {name} is {value.replace('.n', 'n').replace('.i', 'i')}" in message and "must be" in message


@pytest.mark.parametrize("config", NOT_SETTINGS)
def test_what_is_not_yaml_or_no_mapping(run, capfd: pytest.CaptureFixture[str], config: str) -> None:
    assert "run.yaml" in problem(capfd, run, config)


@pytest.mark.parametrize("training", DOCUMENT)
def test_in_the_document(run, capfd: pytest.CaptureFixture[str], training: str) -> None:
    message = problem(capfd, run, "", training)
    assert "a.dlm" in message or training.split(":")[0] in message


@pytest.mark.parametrize("words", COMMAND_LINE)
def test_on_the_command_line(run, capfd: pytest.CaptureFixture[str], words: str) -> None:
    assert words.split()[0].strip("-") in problem(capfd, run, "", "", *words.split())


@pytest.mark.parametrize(
    "config",
    [
        "optim: galore_adamw", "report_to: nope", "eos_token: <nope>", "lr_scheduler_kwargs: {nope: 1}",
        "optim_args: nope", "padding_free: true",
    ],
)  # fmt: skip
def test_what_only_the_trainer_refuses_names_the_setting_too(tmp_path: Path, monkeypatch, config: str) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    (tmp_path / "a.dlm").write_text(HEAD.format(training="") + BODY)
    (tmp_path / "run.yaml").write_text(
        f"notes: {tmp_path / 'a.dlm'}\noutput_dir: {tmp_path / 'out'}\nmeasure: no\nvalidation_fraction: 0\n{config}\n"
    )
    with pytest.raises(DlmError) as caught:
        sft.main(["--config", str(tmp_path / "run.yaml")])
    assert f"{config.split(':')[0]} ({tmp_path / 'run.yaml'}:5)" in str(caught.value)
    assert not list((tmp_path / "out").glob("adapter*"))


def test_rehearsal_can_be_switched_off(run, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Prose. " * 100)
    run(f"rehearsal: 1\nrehearsal_text: {tmp_path / 'text'}", "", "--rehearsal", "0")


def test_unused_keys_of_the_document_are_named_with_their_lines(tmp_path: Path) -> None:
    training = "training:\n  preference: {enabled: true}\n  seed: 3\n  cpt: {schedule: dapt}\nexport: {}\n"
    (tmp_path / "a.dlm").write_text(HEAD.format(training=training) + BODY)
    found = prepare(read_configuration(["--notes", str(tmp_path / "a.dlm"), "--output_dir", str(tmp_path / "out")]))
    line = "Not used by this package: training.cpt (a.dlm:8), export (a.dlm:9)."
    assert line in found.notices
