"""What is checked before a run on preferences: its rows, the adapter it starts from, its settings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from dlm_trl.models import lineage
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError, store
from dlm_trl.train.preference_config import read_preference_configuration
from dlm_trl.train.prepare_preferences import prepare_preferences
from dlm_trl.train.run import PreferenceRun
from dlm_trl.train.save import adapter_files

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: {base}\n---\nProse.\n"
ROW = "\n::preference::\n### Prompt\nWhat is loaf {n}?\n### Chosen\nBread {n}.\n### Rejected\nA lot of things {n}.\n"
PAIR = "\n::instruction::\n### Q\nWhat is loaf {n}?\n### A\nBread.\n"


@pytest.fixture
def check(tmp_path: Path, random_base: Path, trained_adapter: Path, monkeypatch: pytest.MonkeyPatch):
    """check("--beta", "2", …, body=text) returns the PreferenceRun."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))

    def check(*argv: object, body: str = "", start: Path | None = trained_adapter) -> PreferenceRun:
        text = HEAD.format(base=random_base) + (body or "".join(ROW.format(n=n) for n in range(20)))
        (tmp_path / "notes.dlm").write_text(text)
        common = ["--notes", tmp_path / "notes.dlm", "--output_dir", tmp_path / "out"]
        common += ["--adapter_from", start] if start else []
        return prepare_preferences(read_preference_configuration([str(word) for word in [*common, *argv]]))

    return check


def changed(adapter: Path, folder: Path) -> Path:
    """A copy of the adapter to change."""
    shutil.copytree(adapter, folder)
    return folder


def test_rows_are_split_and_counted(check) -> None:
    run = check("--validation_fraction", 0.3)
    assert len(run.rows.train) + len(run.rows.held_out) == 20
    assert 2 <= len(run.rows.held_out) <= 10
    assert run.rows.provenance() == {"human": len(run.rows.train)}
    assert (run.adapter.adapter, run.adapter.lora_r, run.adapter.lora_alpha) == ("lora", 4, 8)
    assert check("--validation_fraction", 0).rows.held_out is None
    assert run.training.num_train_epochs == 48 / -(-len(run.rows.train) // 16)


def test_a_preference_about_a_held_out_pair_is_held_out(check, trained_adapter: Path, tmp_path: Path) -> None:
    start = changed(trained_adapter, tmp_path / "start")
    record = {
        "step": "train",
        "base": str(json.loads((start / "adapter_config.json").read_text())["base_model_name_or_path"]),
    }
    record |= {"rows": {}, "adapter": {"type": "lora", "rank": 4}, "seed": 5, "base_fingerprint": None}
    record |= {
        "document": None,
        "task": None,
        "quantization": None,
        "eval_spec": {"validation_fraction": 0.5, "split_method": "source_group", "seed": 5},
    }
    lineage.write(start, [record])
    body = "".join(PAIR.format(n=n) + ROW.format(n=n) for n in range(20))
    run = check("--validation_fraction", 0, body=body, start=start)
    held_out = {question for question, *_ in run.questions.groups["held-out"]}
    assert held_out and run.eval_spec.seed == 5
    assert {row["prompt"][-1]["content"] for row in run.rows.held_out} == held_out
    assert not held_out & {row["prompt"][-1]["content"] for row in run.rows.train}


def test_the_author_of_mined_rows_is_their_judge(check) -> None:
    marker = 'judge_name="hf:tiny" judge_score_chosen="1.5" judge_score_rejected="0.5" mined_at="2026-01-01T00:00:00Z"'
    mined = ROW.format(n=1).replace("::\n###", f'::\n<!-- dlm-auto-mined: {marker} mined_run_id="1" -->\n###')
    run = check("--validation_fraction", 0, body=mined + ROW.format(n=2))
    assert run.rows.provenance() == {"judged by hf:tiny": 1, "human": 1}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PAIR.format(n=1), "no preference sections"),
        (ROW.format(n=1).replace("A lot of things 1", "Bread  1"), "notes.dlm:9: chosen and rejected are the same"),
        (ROW.format(n=1).replace("Bread 1.", ""), "notes.dlm:13:1: `### Chosen` has no text"),
        (
            ROW.format(n=1).replace("Bread 1.", "It ends with <|im_end|>."),
            "notes.dlm:9: DPOTrainer would read the name",
        ),
        (ROW.format(n=1).replace("Bread 1.", "Bread " * 600), "dropped as too long: "),
    ],
    ids=["none", "equal", "empty", "control token", "too long"],
)
def test_rows_that_cant_be_trained_are_one_line_with_their_place(check, body: str, words: str) -> None:
    with pytest.raises(DlmError) as caught:
        check("--validation_fraction", 0, body=body)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--loss_type", "sigmoid", "simgoid"), "command line: loss_type 'simgoid' is unknown"),
        (("--base_model", "tiny"), "command line: base_model is 'tiny', and the adapter in"),
        (("--world_size", 2), "world_size asks for 2"),
        (("--precompute_ref_log_probs", "true", "--reference", "base"), "precompute_ref_log_probs"),
        (("--adapter_from", "nothing-here"), "adapter_config.json is missing"),
    ],
)
def test_settings_that_cant_work_are_one_line(check, argv: tuple[object, ...], words: str) -> None:
    with pytest.raises(DlmError) as caught:
        check(*argv)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_that_cant_have_a_frozen_copy_is_refused(check, random_base: Path, tmp_path: Path) -> None:
    config = AdaLoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_r=4, target_r=2, total_step=9)
    get_peft_model(load_base(str(random_base)), config).save_pretrained(tmp_path / "adalora")
    load_tokenizer(str(random_base)).save_pretrained(tmp_path / "adalora")
    with pytest.raises(DlmError, match="lora and dora adapters"):
        check(start=tmp_path / "adalora")


def test_damaged_weights_are_refused(check, trained_adapter: Path, tmp_path: Path) -> None:
    start = changed(trained_adapter, tmp_path / "start")
    tensors = load_file(start / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, start / "adapter_model.safetensors")
    with pytest.raises(DlmError, match=f"{name} is not finite"):
        check(start=start)
    (start / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(DlmError, match="can't be read"):
        check(start=start)
    (start / "adapter_model.safetensors").unlink()
    with pytest.raises(DlmError, match=r"adapter_model\.safetensors is missing"):
        check(start=start)


def test_the_start_is_never_overwritten_nor_forgotten(check, trained_adapter: Path, tmp_path: Path) -> None:
    start = changed(trained_adapter, tmp_path / "start")
    with pytest.raises(DlmError, match="output_dir is the adapter to start from"):
        check("--output_dir", start, start=start)
    record = {
        "step": "train",
        "base": json.loads((start / "adapter_config.json").read_text())["base_model_name_or_path"],
    }
    record |= {"rows": {}, "adapter": {"type": "lora", "rank": 4}, "seed": 5, "base_fingerprint": None}
    record |= {"document": None, "task": None, "quantization": None, "adapter_from": {"folder": "/runs/sft"}}
    lineage.write(start, [record])
    current = store.publish_adapter("01K9BREADW1THS0VRD0VGH2T3R", adapter_files(start))
    with pytest.raises(DlmError, match=r"trained on preferences already.*--adapter_from /runs/sft, or .*v0001"):
        check(start=None)
    assert check(start=current).adapter_from == current
