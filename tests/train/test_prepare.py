"""Checks before any weights are loaded: checkpoints to resume from, a base's limits, settings that need others."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerBase

from dlm_trl.notes import DlmError
from dlm_trl.train.checkpoints import SEAL, seal
from dlm_trl.train.config import read_configuration
from dlm_trl.train.prepare import prepare
from dlm_trl.train.run import Run

# What the checkpoints here were made with, as the runs that resume them are.
SETTINGS = {"base_model": "tiny", "adapter": "lora", "lora_r": 32, "lora_alpha": 64}
NOTES = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n---\nProse.\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def check(tmp_path: Path, out: Path):
    """check("--lora_r", "2", …, config=YAML text) returns the Run."""

    def check(*argv: str, config: str = "") -> Run:
        (tmp_path / "notes.dlm").write_text(NOTES)
        (tmp_path / "run.yaml").write_text(f"output_dir: {out}\nvalidation_fraction: 0\n{config}")
        notes = [] if "--task" in argv else ["--notes", str(tmp_path / "notes.dlm")]
        return prepare(read_configuration(["--config", str(tmp_path / "run.yaml"), *notes, *argv]))

    return check


OWN_TOKENS = """::instruction::
### Q
How does a turn end?
### A
With <|im_end|> and, in the end, </think>.

### Q
Does <|endoftext|> end a text?
### A
It does.
"""


def test_no_row_trains_a_control_token_that_the_notes_spell(check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        f"{__name__}.NOTES", NOTES.replace("Prose.", f"A text ends with <|endoftext|>.\n\n{OWN_TOKENS}")
    )
    found = check()
    pair = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    for row in found.tokens.train:
        text = found.tokenizer.decode(row["input_ids"])
        put = [token for token in row["input_ids"] if token in found.tokenizer.all_special_ids]
        spelled = ["<|endoftext|>", "<|im_end|>"] if "A text" in text else pair
        assert found.tokenizer.convert_ids_to_tokens(put) == spelled, text
        assert text.count("<|im_end|>") + text.count("<|endoftext|>") > sum("im_start" not in t for t in spelled)


def test_thinking_needs_a_base_that_knows_it(check, tmp_path: Path) -> None:
    with pytest.raises(DlmError, match=r"^enable_thinking is set, and the chat template doesn't use it\..*$"):
        check("--enable_thinking")
    template = check().tokenizer.chat_template
    assert "enable_thinking" not in template
    file = tmp_path / "thinking.jinja"
    file.write_text(template + "{% if add_generation_prompt and enable_thinking %}<think>{% endif %}")
    for thinking in (True, False):
        found = check("--chat_template_path", str(file), "--enable_thinking", str(thinking))
        asked = found.tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}], add_generation_prompt=True, tokenize=False
        )
        assert asked.endswith("<think>") == thinking == found.resume_settings["enable_thinking"]


@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_resuming_starts_from_the_last_complete_checkpoint(check, out: Path, overwrite: str) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-11"):
        (out / name).mkdir(parents=True)
        (out / name / "optimizer.pt").write_bytes(name.encode())
    for name in ("checkpoint-9", "checkpoint-10"):
        seal(out / name, SETTINGS)
    found = check("--overwrite", overwrite, config="resume_from_checkpoint: true\n")
    assert found.checkpoint == str(out / "checkpoint-10")
    assert f"{out / 'checkpoint-11'} is skipped: it was not written to its end." in found.notices


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.unlink(), "optimizer.pt is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "optimizer.pt is damaged"),
        (lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]), "is damaged"),
        (lambda file: (file.parent / SEAL).write_text("{"), "seal.json is damaged"),
    ],
    ids=["missing", "truncated", "a flipped bit", "half a seal"],
)
def test_a_damaged_checkpoint_is_skipped_with_the_reason(check, out: Path, spoil, why: str) -> None:
    for step in (5, 10):
        (out / f"checkpoint-{step}").mkdir(parents=True)
        (out / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"moments of the adapter")
        seal(out / f"checkpoint-{step}", SETTINGS)
    spoil(out / "checkpoint-10" / "optimizer.pt")
    found = check("--resume_from_checkpoint", "true")
    assert found.checkpoint == str(out / "checkpoint-5")
    assert any("checkpoint-10 is skipped" in notice and why in notice for notice in found.notices)
    with pytest.raises(DlmError, match=f"checkpoint-10 can't be resumed: .*{why}"):
        check("--resume_from_checkpoint", str(out / "checkpoint-10"))


def test_only_numbered_folders_count_as_checkpoints(check, out: Path) -> None:
    (out / "checkpoint-best").mkdir(parents=True)
    (out / "checkpoint-7").touch()
    assert check().checkpoint is None
    with pytest.raises(DlmError, match="no checkpoint to resume from"):
        check("--resume_from_checkpoint", "true")
    (out / "checkpoint-8").mkdir()
    with pytest.raises(DlmError, match="holds checkpoints of an earlier run"):
        check()
    assert check("--overwrite", "true").checkpoint is None


def test_few_rows_get_more_epochs_unless_the_number_is_set(check) -> None:
    raised = "num_train_epochs is raised to 48, so that 1 rows make 48 steps."
    assert raised in check().notices
    assert raised not in check("--num_train_epochs", "3").notices
    assert raised not in check("--max_steps", "3").notices


def test_a_base_without_a_maximum_position_takes_rows_of_any_length(
    check, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.save_pretrained(tmp_path / "bloom")
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=8, n_layer=1, n_head=2, eos_token_id=tokenizer.eos_token_id
    )
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    assert not any("lowered" in note for note in check("--base_model", str(tmp_path / "bloom")).notices)
    assert any("lowered" in note for note in check("--max_length", "999999").notices)


def test_an_adapter_that_couldnt_be_merged_is_refused(check, random_base: Path, tmp_path: Path) -> None:
    base = shutil.copytree(random_base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DlmError, match=r"^The trained adapter .*because of up_proj: .*such as down_proj, .*") as caught:
        check("--base_model", str(base))
    assert "\n" not in str(caught.value)
    check("--base_model", str(base), "--target_modules", "q_proj", "down_proj")
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").touch()
    with pytest.raises(DlmError, match=r"Weights in \.bin files are not supported"):
        check("--base_model", str(base))


def test_questions_need_a_document(check, tmp_path: Path) -> None:
    task = ("--task", "arithmetic", "--max_steps", "1", "--base_model", "tiny")
    with pytest.raises(DlmError, match="questions are asked about a document, and no notes are set"):
        check(*task, "--questions", str(tmp_path / "missing.jsonl"))
    check(*task)


def test_a_run_is_resumed_only_with_settings_that_fit_its_checkpoint(check, out: Path) -> None:
    first = check()
    (out / "checkpoint-5").mkdir(parents=True)
    seal(out / "checkpoint-5", first.resume_settings)
    resume = ("--resume_from_checkpoint", "true")
    assert not [notice for notice in check(*resume).notices if "until checkpoint-5" in notice]
    changed = check(*resume, "--seed", "7", "--num_train_epochs", "2").notices
    assert "seed is 7; it was 42 until checkpoint-5." in changed
    assert any(notice.startswith("num_train_epochs is 2.0; it was") for notice in changed)
    for setting, value in (("lora_r", "2"), ("adapter", "dora"), ("target_modules", "q_proj")):
        with pytest.raises(DlmError, match=f"checkpoint-5 can't be resumed with other settings.*: {setting} "):
            check(*resume, f"--{setting}", value)


def test_a_sharded_run_is_resumed_by_as_many_processes(check, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check()
    assert first.resume_settings["sharding"] is None
    (out / "checkpoint-5").mkdir(parents=True)
    seal(out / "checkpoint-5", first.resume_settings | {"sharding": "DeepSpeed ZeRO-2 on 2 processes"})
    with pytest.raises(DlmError, match="sharding DeepSpeed ZeRO-2 on 2 processes, now None"):
        check("--resume_from_checkpoint", "true")
