"""From a trained adapter to a served model: each step is checked, and damage is detected."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig
from typer.testing import CliRunner, Result

from dlm_trl.cli.main import app
from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.export import merge_step
from dlm_trl.export import verify as verify_module
from dlm_trl.export.merge import merge
from dlm_trl.export.serve_command import vllm_command
from dlm_trl.models import lineage
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.models.weights import find_weights
from dlm_trl.notes import DlmError
from tests.e2e.conftest import Recipe
from tests.teachers.servers import free_port, launched

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n---\n"
PAIR = "::instruction::\n### Q\nWhat is bread of kind {n}?\n### A\nA bread of flour {n}.\n"


def dlm_trl(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter for the embedded base, with all files that training writes."""
    folder = tmp_path_factory.mktemp("adapter")
    notes = folder.with_suffix(".dlm")
    notes.write_text(HEAD + "Bread is baked.\n" + "".join(PAIR.format(n=n) for n in range(20)))
    torch.manual_seed(0)
    model = get_peft_model(load_base("tiny"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.002)
    model.save_pretrained(folder)
    tokenizer = load_tokenizer("tiny")
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    step = {
        "step": "train",
        "document": "01K9BREADW1THS0VRD0VGH2T3R",
        "rows": {"human": 20},
        "task": None,
        "base": "tiny",
    }
    step |= {"adapter": {"type": "lora", "rank": 4}, "quantization": None, "seed": 0}
    eval_spec = EvaluationSpec(str(notes), conditions=["3:upper"], condition_questions=2)
    lineage.write(
        folder, [step | {"eval_spec": asdict(eval_spec), "base_fingerprint": lineage.fingerprint(find_weights("tiny"))}]
    )
    return folder


@pytest.fixture(scope="module")
def merged(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merge(adapter, tmp_path_factory.mktemp("out") / "merged")


@pytest.fixture(scope="module")
def verified(adapter: Path, merged: Path) -> Result:
    return dlm_trl("verify", adapter, merged, "--prompts", 4, "--json")


@pytest.fixture
def damaged(merged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(merged, tmp_path / "damaged"))


def test_a_correct_merge_passes_every_check_and_records_it(merged: Path, verified: Result) -> None:
    assert verified.exit_code == 0, verified.output
    result = json.loads(verified.stdout)
    assert result["passed"] and result["notes"] == []
    names = {check["name"] for check in result["checks"]}
    assert {
        "same prompts",
        "stop tokens",
        "same greedy answers",
        "exact match, seen",
        "F1, seen",
        "mcsb/3:upper/accuracy",
    } <= names
    assert lineage.read(merged)[-1]["checks"] == result["checks"]
    card = (merged / "README.md").read_text()
    assert result["serve"] in card and "| same greedy answers" in card
    smoke = json.loads((merged / verify_module.EXPECTED_ANSWERS).read_text())
    assert len(smoke["answers"]) == 4 and all(row["text"] for row in smoke["answers"])


def test_a_lost_template_and_a_wrong_stop_token_are_detected_before_models_are_loaded(
    adapter: Path, damaged: Path
) -> None:
    (damaged / "chat_template.jinja").unlink()
    config = json.loads((damaged / "generation_config.json").read_text())
    (damaged / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [config["pad_token_id"]]}))
    result = dlm_trl("verify", adapter, damaged)
    assert result.exit_code == 1
    assert "merge failed its check: same prompts: the chat template or the tokenizer was lost" in result.stderr
    assert "stop tokens: answers never end" in result.stderr
    assert not (damaged / verify_module.EXPECTED_ANSWERS).exists()


def test_awq_weights_must_be_the_files_that_were_written(merged: Path, damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    calibration = {"file": "notes.dlm", "sha256": "", "samples": 8, "seed": 0, "length": 512, "tokens": 9}
    step = {"step": "awq", "calibration": calibration, "bits": 4, "group_size": 128, "smoothed": 1}
    step |= {"bytes": {"written": 1, "predicted": 1}}
    right = lineage.read(merged)[-1]["shards"]
    for wrong, (before, after) in (("damaged", (right, {"model.safetensors": ""})), ("merged", ({"gone": ""}, right))):
        merge_step = lineage.read(merged)[-1] | {"shards": before}
        lineage.write(damaged, [merge_step, step | {"shards": after}])
        with pytest.raises(DlmError, match=f"{wrong}/.*not the file that the step"):
            verify_module.verify(merged, damaged)


def test_the_serve_command_can_be_pasted_into_a_shell(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm_command(merged, "my models/it's").startswith("vllm serve 'my models/it'\"'\"'s' --served-model-name ")
    monkeypatch.chdir(merged)
    assert "--served-model-name merged " in vllm_command(merged, ".")


def test_a_matrix_missing_from_the_merge_is_detected(adapter: Path, damaged: Path) -> None:
    name = "model.layers.3.mlp.down_proj.weight"
    tensors = load_file(damaged / "model.safetensors")
    assert not torch.equal(tensors[name], load_base("tiny").state_dict()[name])
    tensors[name] = load_base("tiny").state_dict()[name].clone()
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    result = dlm_trl("verify", adapter, damaged, "--prompts", 2)
    assert result.exit_code == 1
    assert "merge failed its check: logit difference, mean, float32: the merge is wrong" in result.stderr
    assert not all(check["passed"] for check in lineage.read(damaged)[-1]["checks"])


def test_two_folders_that_arent_one_step_are_refused(adapter: Path, merged: Path, tmp_path: Path) -> None:
    no_model, no_step = "There is no model here", "No step of the export"
    for before, after, message in (
        (merged, merged, no_step),
        (adapter, adapter, no_step),
        (adapter, tmp_path, no_model),
        (merged, adapter, no_step),
    ):
        with pytest.raises(DlmError, match=message):
            verify_module.verify(before, after)


def test_folders_that_cant_be_compared_are_refused_before_models_are_loaded(
    adapter: Path, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(merge_step, "compute_outputs")

    def refused(message: str, before: Path = adapter) -> None:
        with pytest.raises(DlmError, match=message) as caught:
            verify_module.verify(before, damaged)
        assert "\n" not in str(caught.value)

    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    (other / "chat_template.jinja").unlink()
    refused("The chat template the adapter was trained with", other)
    tensors = load_file(other / "adapter_model.safetensors")
    tensors.popitem()[1].add_(1)
    save_file(tensors, other / "adapter_model.safetensors")
    refused("not the adapter that was merged", other)
    for file, message in (
        ("generation_config.json", "Not a JSON object"),
        ("tokenizer.json", "tokenizer doesn't load"),
        ("model.safetensors", "Not a complete safetensors file"),
        ("config.json", "Not a JSON object"),
        ("lineage.json", "Malformed lineage file"),
    ):
        whole = (damaged / file).read_bytes()
        (damaged / file).write_text("[]")
        refused(message)
        (damaged / file).write_bytes(whole)
    (damaged / "lineage.json").unlink()
    refused("isn't known how this model was made")


def test_any_change_of_tokenizer_template_or_stop_tokens_is_detected(adapter: Path, damaged: Path) -> None:
    def failed() -> list[str]:
        return [check.name for check in verify_module.verify(adapter, damaged).checks if not check.passed]

    whole = {file: (damaged / file).read_text() for file in ("chat_template.jinja", "generation_config.json")}
    (damaged / "chat_template.jinja").write_text(
        whole["chat_template.jinja"] + "{% if messages|length > 9 %}x{% endif %}"
    )
    assert failed() == ["same prompts"]
    (damaged / "chat_template.jinja").write_text(whole["chat_template.jinja"])
    config = json.loads(whole["generation_config.json"])
    for ends in ([config["eos_token_id"], 300], "x", None, [[1]], 10**6):
        (damaged / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": ends}))
        assert failed() == ["stop tokens"]
    (damaged / "generation_config.json").write_text(whole["generation_config.json"])
    tokenizer = load_tokenizer(str(damaged))
    tokenizer.add_tokens(["<a new one>"])
    tokenizer.save_pretrained(damaged)
    assert failed() == ["same prompts"]


def test_an_adapter_without_lineage_is_verified_with_the_base_it_was_merged_into(adapter: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, alone)
    config = json.loads((alone / "adapter_config.json").read_text())
    (alone / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/no/such/base"}))
    out = merge(alone, tmp_path / "merged", "tiny")
    assert verify_module.verify(alone, out, prompts=2).passed


def test_serve_check_accepts_the_model_and_rejects_another(
    merged: Path, verified: Result, damaged: Path, tmp_path: Path
) -> None:
    (tmp_path / "hub").mkdir()  # an empty cache, so the server lists no other models
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(merged), "--device", "cpu"]
    address = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    with launched([*command, *address], port, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"):
        url = f"http://127.0.0.1:{port}/v1"
        result = dlm_trl("serve-check", url, merged, "--model", merged)
        assert result.exit_code == 0, result.output
        smoke = json.loads((merged / verify_module.EXPECTED_ANSWERS).read_text())
        for row in smoke["answers"]:
            row |= {"text": "Something else entirely.", "ended": not row["ended"]}
        (damaged / verify_module.EXPECTED_ANSWERS).write_text(json.dumps(smoke))
        other = dlm_trl("serve-check", url, damaged, "--model", merged)
        assert other.exit_code == 1
        assert "FAILED: the server runs another model" in other.output
        assert "FAILED: the server stops elsewhere" in other.output
    stopped = dlm_trl("serve-check", url, merged, "--model", merged)
    assert stopped.exit_code == 1
    assert "doesn't answer" in str(stopped.exception)


def test_the_recipe_exports_a_merged_and_checked_model(recipe: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    out = recipe("--export", "merged", "--max_steps", 1, "--measure", "false", "--lora_r", 2)
    merged = out.with_name(f"{out.name}-merged")
    steps = lineage.read(merged)
    assert [step["step"] for step in steps] == ["train", "merge"]
    assert steps[0]["rows"]["human"] > 0
    assert all(check["passed"] for check in steps[1]["checks"])
    assert "| same greedy answers" in capfd.readouterr().out
    with pytest.raises(DlmError, match="it isn't empty and has no lineage"):
        (merged / lineage.FILE).unlink()
        recipe("--export", "merged", "--overwrite", "true")


def test_the_recipe_reports_before_training_that_it_cant_quantise(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dlm_trl.notes.extras.find_spec", lambda name: None)
    with pytest.raises(DlmError, match=r"Quantising needs autoawq.*\[quant\]"):
        recipe("--export", "awq", "--max_steps", 1, "--measure", "false")
    monkeypatch.setattr("dlm_trl.notes.extras.find_spec", lambda name: name)
    monkeypatch.setattr("dlm_trl.export.awq.GROUP_SIZES", (128,))  # the base is 64 wide
    with pytest.raises(DlmError, match="must be a multiple of the group size 128"):
        recipe("--export", "awq", "--max_steps", 1, "--measure", "false")
    assert "trainable parameters" not in capsys.readouterr().out
