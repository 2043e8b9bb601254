"""The recipe from document to adapter, in this process, on a base with random weights."""

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GenerationConfig
from typer.testing import CliRunner

from dlm_trl.cli.main import app
from dlm_trl.models.load import load_adapted, load_base
from dlm_trl.models.weights import first_not_finite
from dlm_trl.notes import DlmError, store
from dlm_trl.train.checkpoints import last_checkpoint, seal
from dlm_trl.train.save import generation_config
from tests.e2e.conftest import Recipe, losses

QUIET = ("--measure", "false")
DLM_ID = "01K9BREADW1THS0VRD0VGH2T3R"


def test_a_run_leaves_adapter_tokenizer_card_and_report(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"question": "Who bakes the bread of day 1?", "reworded": "By whom is bread 1 made?", "answer": "the baker."},
        {"kind": "held-out", "question": "What is folded?", "answer": "a dough"},
        {"kind": "reverse", "question": "What is folding a dough called?", "answer": "kneading"},
        {"kind": "trap", "question": "Who eats the bread of day 1?"},
    ]
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = recipe("--questions", questions, "--max_questions", 4, "--lora_r", 2)
    printed = capsys.readouterr().out
    assert "world size: 1" in printed
    assert "of the loss" in printed
    lines = [line for line in printed.splitlines() if "lora_r" in line or "learning_rate" in line]
    assert any("command line" in line and " 2 " in line for line in lines)
    assert any("notes.dlm" in line and "0.002" in line for line in lines)

    report = json.loads((out / "report.json").read_text())
    named = {measure["name"]: measure for measure in report["measures"]}
    for group in ("seen", "reworded", "held-out", "reverse"):
        for name in ("exact match", "F1", "fuzzy match"):
            assert named[f"{name}, {group}"]["open_book"] is not None
        chosen = named.get(f"multiple choice, {group}")
        assert chosen is None or 0 <= chosen["low"] <= chosen["after"] <= chosen["high"] <= 1
    assert named["inventions, traps"]["open_book"] == named["inventions, traps"]["after"] == 1.0
    assert "share of open book" in named
    missed = {one["question"]: (one["file"], one["line"]) for one in report["missed"]}
    assert missed["What is folded?"] == (str(questions), 2)
    file, line = missed["By whom is bread 1 made?"]
    assert Path(file).read_text().splitlines()[line] == "Who bakes the bread of day 1?", "after its ### Q"
    assert report["advice"] and report["advice"][0] in (out / "report.md").read_text().replace("\\", "")
    assert report["advice"][0] in printed.replace("\\", "")
    page = (out / "report.html").read_text()
    assert all(one["question"] in page for one in report["missed"]) and "notes.dlm:" in page
    assert {"finished", "hardware", "versions", "seed"} <= report["run"].keys()
    assert ["lora_r", "2", "command line"] in report["settings"] and "command line" in page
    assert [step["step"] for step in report["lineage"]] == ["train"]
    assert printed.splitlines()[-1] == f"try it: dlm-trl chat {out}"
    loss = named["validation loss"]
    assert loss["after"] < loss["before"]
    assert named["perplexity, general text"]["before"] != named["perplexity, general text"]["after"]
    assert {sample["group"] for sample in report["samples"]} == {"seen", "reworded", "held-out", "reverse", "traps"}
    assert (out / "report.png").stat().st_size > 1000

    live = store.current_adapter(DLM_ID)
    assert live is not None
    for folder in (out, live):
        model, tokenizer = load_adapted(folder)
        assert tokenizer.chat_template
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
        assert ends == [tokenizer.eos_token_id]
        assert "| people, as pairs | | 23 |" in " ".join((folder / "README.md").read_text().split())
    assert any(p.abs().sum() > 0 for name, p in model.named_parameters() if "lora_B" in name)
    assert not list(live.glob("checkpoint*"))


@pytest.mark.parametrize(
    "settings",
    [
        ("--adapter", "dora"),
        ("--adapter", "qlora"),
        ("--quantization", "8bit"),
        ("--packing", "true"),
        ("--gradient_checkpointing", "true", "--lr_scheduler_type", "linear"),
    ],
    ids=lambda settings: " ".join(settings),
)
def test_every_kind_of_run_learns(recipe: Recipe, settings: tuple[str, ...]) -> None:
    # Few steps with a high learning rate: without gradients, the loss wouldn't fall.
    out = recipe(*QUIET, *settings, "--num_train_epochs", 6, "--warmup_steps", 0, "--learning_rate", 0.02)
    by_step = losses(out)
    assert by_step[max(by_step)] < 0.9 * by_step[1]


def test_adalora_prunes_its_ranks_to_the_target(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe(*QUIET, "--adapter", "adalora", "--num_train_epochs", 6, "--learning_rate", 0.02)
    pattern = json.loads((out / "adapter_config.json").read_text())["rank_pattern"]
    kept = [sum(ranks) for ranks in pattern.values()]
    assert sum(kept) == 4 * len(kept)  # lora_r is the mean rank after pruning
    assert len(set(kept)) > 1
    assert "AdaLoRA ranks: 4.0 on average" in capsys.readouterr().out
    shapes = {name: tensor.shape[0] for name, tensor in load_file(out / "adapter_model.safetensors").items()}
    assert sorted(size for name, size in shapes.items() if name.endswith("lora_A")) == sorted(kept)
    model, _ = load_adapted(out)
    assert isinstance(model, PeftModel)


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_resumed_run_equals_the_uninterrupted_one(recipe: Recipe, packing: str) -> None:
    settings = (*QUIET, "--num_train_epochs", 3, "--packing", packing, "--save_strategy", "steps", "--save_steps", 1)
    settings += ("--save_total_limit", 99, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 1)
    settings += ("--max_length", 128)
    whole = losses(recipe(*settings, output="whole"))
    steps = max(whole)
    out = recipe(*settings, output="resumed")
    for step in range(3, steps + 1):
        shutil.rmtree(out / f"checkpoint-{step}")
    recipe(*settings, "--resume_from_checkpoint", "true", output="resumed")
    resumed = losses(out)
    assert resumed.keys() == whole.keys()
    assert resumed == whole
    a, b = ((out.parent / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "resumed"))
    assert a == b


@pytest.mark.parametrize("strategy", [("steps", "--save_steps", 1), ("epoch",)], ids=["steps", "epoch"])
def test_a_run_resumed_at_its_last_step_makes_no_more_steps(recipe: Recipe, strategy: tuple[object, ...]) -> None:
    # 24 rows make 3 steps per epoch: the last step is in the middle of the third one.
    settings = (*QUIET, "--max_steps", 8, "--save_strategy", *strategy)
    settings += ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2)
    settings += ("--eval_strategy", "no", "--save_total_limit", 1, "--lr_scheduler_type", "constant")
    out = recipe(*settings)
    trained, sealed = (out / "adapter_model.safetensors").read_bytes(), out / "checkpoint-8" / "seal.json"
    before = sealed.stat().st_mtime_ns
    recipe(*settings, "--resume_from_checkpoint", "true")
    assert (out / "adapter_model.safetensors").read_bytes() == trained
    assert sealed.stat().st_mtime_ns == before, "a whole checkpoint isn't written again"


class Killed(BaseException):
    """What a test raises where a run would be killed."""


def test_the_last_checkpoint_stays_until_the_next_one_is_whole(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*QUIET, "--save_strategy", "steps", "--save_steps", 1, "--save_total_limit", 1, "--overwrite", "true")
    settings += ("--resume_from_checkpoint", "true")
    whole = recipe(*settings, output="whole")
    assert [folder.name for folder in whole.glob("checkpoint-*")] == [f"checkpoint-{max(losses(whole))}"]

    def killed_at_step_2(checkpoint: Path, recorded: Mapping[str, object]) -> None:
        if checkpoint.name == "checkpoint-2":
            raise Killed
        seal(checkpoint, recorded)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("dlm_trl.train.callbacks.seal", killed_at_step_2)
        recipe(*settings)
    out = whole.with_name("out")
    assert last_checkpoint(str(out))[0] == str(out / "checkpoint-1")
    recipe(*settings)
    assert (out / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_adapter_is_saved_waits_until_it_is(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def interrupted(trainer: object) -> GenerationConfig:
        os.kill(os.getpid(), number)
        return generation_config(trainer)

    before = signal.signal(number, lambda *_: pytest.fail("the run didn't handle the signal"))
    monkeypatch.setattr("dlm_trl.train.save.generation_config", interrupted)
    try:
        with pytest.raises(SystemExit) as stopped:
            recipe("--max_steps", 1, "--max_questions", 1, "--save_strategy", "no", "--eval_strategy", "no")
    finally:
        signal.signal(number, before)
    assert stopped.value.code == 128 + number
    folder = store.current_adapter(DLM_ID)
    assert folder is not None and (folder / "adapter_model.safetensors").is_file()
    assert f"Stopped: the adapter is complete, without its last measurements: {folder}." in capfd.readouterr().err


def test_a_resumed_adalora_run_prunes_like_the_uninterrupted_one(recipe: Recipe) -> None:
    settings = (*QUIET, "--adapter", "adalora", "--num_train_epochs", 6, "--learning_rate", 0.02)
    settings += ("--save_strategy", "steps", "--save_steps", 1, "--save_total_limit", 20)
    whole = recipe(*settings, output="whole")
    for reached in (6, 10):  # during pruning, and after it
        shutil.copytree(whole, out := whole.with_name(f"resumed-{reached}"))
        for step in range(reached + 1, max(losses(whole)) + 1):
            shutil.rmtree(out / f"checkpoint-{step}")
        recipe(*settings, "--resume_from_checkpoint", "true", output=out.name)
        assert losses(out) == pytest.approx(losses(whole), abs=1e-5)
        patterns = [json.loads((run / "adapter_config.json").read_text())["rank_pattern"] for run in (whole, out)]
        assert patterns[0] == patterns[1]
        a, b = (load_file(run / "adapter_model.safetensors") for run in (whole, out))
        assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_measuring_doesnt_change_the_run(recipe: Recipe) -> None:
    measured = losses(recipe("--max_questions", 2, output="measured"))
    assert losses(recipe(*QUIET, output="not")) == measured


def test_a_resumed_run_reports_the_untrained_bases_numbers(recipe: Recipe, capfd: pytest.CaptureFixture) -> None:
    settings = ("--max_questions", 2, "--save_strategy", "steps", "--save_steps", 1, "--eval_strategy", "no")
    out = recipe(*settings, "--max_steps", 1)
    first = json.loads((out / "report.json").read_text())["measures"]
    (out / "report.json").unlink()
    capfd.readouterr()
    recipe(*settings, "--max_steps", 2, "--resume_from_checkpoint", "true", "--disable_tqdm", "false")
    resumed = json.loads((out / "report.json").read_text())["measures"]
    assert [(m["name"], m["before"], m["open_book"]) for m in resumed] == [
        (m["name"], m["before"], m["open_book"]) for m in first
    ]
    shown = capfd.readouterr().err
    assert "answering the questions" in shown and "reading the general text" in shown
    assert "notes in the prompt" not in shown, "it was measured before the first step"


def test_the_adapter_is_saved_before_the_report_is_written(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm_trl.evaluation.report.draw", None)
    with pytest.raises(TypeError):
        recipe("--max_steps", 1, "--max_questions", 1, "--save_strategy", "no", "--eval_strategy", "no")
    assert (store.current_adapter(DLM_ID) / "adapter_model.safetensors").is_file()


def test_a_run_doesnt_overwrite_another_runs_checkpoints(recipe: Recipe) -> None:
    out = recipe(*QUIET)
    with pytest.raises(DlmError, match="holds checkpoints of an earlier run"):
        recipe(*QUIET)
    (out / "checkpoint-best").mkdir()
    recipe(*QUIET, "--overwrite", "true", "--max_steps", 1, "--save_strategy", "steps", "--save_steps", 1)
    assert {folder.name for folder in out.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-best"}
    recipe(*QUIET, "--overwrite", "true", "--resume_from_checkpoint", "true", "--max_steps", 2)
    assert (out / "checkpoint-1").is_dir(), "a resumed run keeps its checkpoints"


@pytest.fixture
def without_weights(random_base: Path, tmp_path: Path) -> Path:
    """The base without its weights. A run that loads them before its checks fails with another error."""
    folder = tmp_path / "without_weights"
    shutil.copytree(random_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(DlmError, match="No weights in this folder"):
        load_base(str(folder))
    return folder


def test_invalid_input_is_reported_in_one_line_before_weights_are_loaded(
    recipe: Recipe, document: Path, without_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    base = ("--base_model", without_weights)
    for settings, words in (
        (("--notes", tmp_path / "missing.dlm"), "missing.dlm"),
        (("--base_model", "smollm2-135n"), "Did you mean 'smollm2-135m'"),
        ((*base, "--lora_rank", 3), "Did you mean 'lora_r'"),
        ((*base, "--output_dir", tmp_path / "file" / "below"), "can't write to output_dir"),
        ((*base, "--world_size", 2), "1 processes, and world_size asks for 2"),
        ((*base, "--target_modules", "no_such_module"), "does not fit the base"),
        ((*base, "--resume_from_checkpoint", "true"), "no checkpoint to resume from"),
        ((*base, "--questions", tmp_path / "no.jsonl"), "The questions file doesn't exist"),
        ((*base, "--learning_rate", "fast"), "learning_rate"),
        ((*base, "--adapter_name", "x"), "declares no adapter 'x'"),
        ((*base, "--max_length", 16), "too long"),
    ):
        with pytest.raises(DlmError) as caught:
            recipe(*settings)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    text = document.read_text().split("\n::instruction::")[0]
    document.write_text(text.split("Kneading")[0])
    with pytest.raises(DlmError, match="Nothing to train on"):
        recipe(*base)


def test_a_missing_chat_template_is_reported_and_can_be_set(
    recipe: Recipe, random_base: Path, without_weights: Path, tmp_path: Path
) -> None:
    (without_weights / "chat_template.jinja").unlink()
    with pytest.raises(DlmError, match="no chat template") as caught:
        recipe("--base_model", without_weights)
    assert "\n" not in str(caught.value)
    bare = tmp_path / "bare"
    shutil.copytree(random_base, bare)
    (bare / "chat_template.jinja").unlink()
    out = recipe(*QUIET, "--base_model", bare, "--chat_template_path", random_base / "chat_template.jinja")
    assert (out / "chat_template.jinja").read_text() == (random_base / "chat_template.jinja").read_text()


def test_several_problems_are_reported_together(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DlmError) as caught:
        recipe("--base_model", "nothing-here", "--output_dir", tmp_path / "file" / "below", "--world_size", 3)
    assert len(str(caught.value).splitlines()) == 3


def test_lost_numbers_of_the_untrained_base_dont_stop_a_run(recipe: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    settings = ("--max_questions", 1, "--save_strategy", "steps", "--save_steps", 1, "--eval_strategy", "no")
    out = recipe(*settings, "--max_steps", 1)
    (out / "before.json").write_text('{"validation_loss": 3.')
    recipe(*settings, "--max_steps", 2, "--resume_from_checkpoint", "true")
    assert f"{out / 'before.json'} is missing or damaged" in capfd.readouterr().err
    assert json.loads((out / "report.json").read_text())["measures"][0]["before"] is None


def test_a_diverged_run_publishes_nothing_and_says_since_when(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        DlmError, match=r"diverged: .* is not finite\. The loss is not finite from step \d+ on"
    ) as caught:
        recipe(*QUIET, "--learning_rate", "1e20", "--max_grad_norm", "0", "--num_train_epochs", "4")
    assert caught.value.kind == "AdapterError"
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert not list((tmp_path / "home").rglob("adapter_model.safetensors"))
    with pytest.raises(DlmError, match="num_train_epochs is 0"):
        recipe(*QUIET, "--num_train_epochs", "0")


def test_a_run_that_diverges_keeps_the_checkpoints_from_before(recipe: Recipe, tmp_path: Path) -> None:
    settings = ("--measure", "false", "--eval_strategy", "no", "--save_strategy", "steps", "--save_steps", "1")
    settings += ("--save_total_limit", "1", "--learning_rate", "1e20", "--max_grad_norm", "0", "--max_steps", "9")
    with pytest.raises(DlmError, match=r"diverged: .* The checkpoint is not saved\."):
        recipe(*settings)
    (before,) = (tmp_path / "out").glob("checkpoint-*")
    assert last_checkpoint(str(tmp_path / "out")) == (str(before), [])
    assert first_not_finite(before / "adapter_model.safetensors") is None


def test_an_adapter_that_could_not_be_published_is_published_later(
    recipe: Recipe, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as full:
        full.setattr("dlm_trl.notes.store.shutil.copy2", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        out = recipe(*QUIET, "--num_train_epochs", "1")
    assert store.current_adapter(DLM_ID) is None
    command = f"dlm-trl publish {document} {out}"
    line = f"No space left. Set DLM_HOME to another folder. The adapter is in {out}. Then: {command}"
    assert line in capfd.readouterr().err
    done = CliRunner().invoke(app, command.split()[1:])
    assert done.exit_code == 0, done.output
    current = store.current_adapter(DLM_ID)
    assert current is not None and done.output.strip() == str(current)
    assert (current / "adapter_model.safetensors").read_bytes() == (out / "adapter_model.safetensors").read_bytes()
