"""Pushes of adapters and models: which files go, what the card says, what is refused, and that the result loads."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm_trl.evaluation.numbers import Measure
from dlm_trl.export.merge import merge
from dlm_trl.export.record import read_lineage, write_lineage
from dlm_trl.hub.folders import model_upload
from dlm_trl.models import lineage
from dlm_trl.notes import DlmError
from tests.hub.conftest import Cli, Hub, Push

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
PRIVATE = ("serve_check.json", "report.json", "report.md", "before.json", "training_args.bin", "optimizer.pt")
SECRET = b"a question of the notes"
TRAINED: dict[str, Any] = {
    "step": "train",
    "document": "01JZZZZZZZZZZZZZZZZZZZZZZZ",
    "rows": {"human": 10, "hf:/home/ann/writer": 20, "prose": 5, "views": 15},
    "synthetic": {"hf:/home/ann/writer": 20, "openai:gpt-9": 15},
    "task": None,
    "base_source": None,
    "base_fingerprint": None,
    "adapter": {"type": "lora", "rank": 4, "alpha": 8, "dropout": 0.0},
    "quantization": None,
    "seed": 42,
    "settings": {"learning_rate": 1e-3, "epochs": 3},
    "measures": [
        {"name": "F1, seen", "unit": "share", "before": 0.125, "after": 0.875, "group": "seen", "questions": 8},
        {"name": "perplexity, general text", "unit": "per token", "before": 20.5, "after": 21.25},
    ],
    "eval_spec": {"notes": "/home/ann/notes.dlm", "validation_fraction": 0.1, "split_method": "source_group"},
    "versions": {"dlm-trl": "0.1.0"},
}
PASSED = {"name": "same greedy answers", "value": 1.0, "limit": "≥ 0.9", "passed": True}


@pytest.fixture
def adapter(random_base: Path, tmp_path: Path) -> Path:
    """A run's output folder, with what else runs leave there."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    folder = tmp_path / "run"
    get_peft_model(AutoModelForCausalLM.from_pretrained(random_base), config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(random_base).save_pretrained(folder)
    lineage.write(folder, [TRAINED | {"base": str(random_base)}])
    for name in PRIVATE:
        (folder / name).write_bytes(SECRET)
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes(SECRET)
    return folder


@pytest.fixture
def merged(adapter: Path, random_base: Path, tmp_path: Path) -> Path:
    """A merged model that verify passed."""
    folder = tmp_path / "merged"
    merge(adapter, folder)
    set_checks(folder, [PASSED])
    (folder / "serve_check.json").write_bytes(SECRET)
    return folder


def set_checks(folder: Path, checks: list[dict[str, Any]]) -> None:
    *before, last = read_lineage(folder)
    write_lineage(folder, [*before, last | {"checks": checks, "serve": f"vllm serve {folder}"}], str(folder))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits  # type: ignore[no-any-return]


def arrived(hub: Hub, repo: str, folder: Path) -> Path:
    """The files of the repository, as a folder."""
    for name, content in hub.of(repo).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def python_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def test_an_adapter_arrives_and_loads(hub: Hub, push: Push, adapter: Path, random_base: Path, tmp_path: Path) -> None:
    done = push(adapter, "notes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub.address}/models/baker/notes/commit/c0ffee"
    assert "not sent: before.json, checkpoint-1/, optimizer.pt, report.json" in done.stdout
    assert "isn't on the Hub, so others can't load this adapter" in done.stderr
    files = hub.of("models/baker/notes")
    assert files.keys() == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "lineage.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert hub.private == {"models/baker/notes": True} and hub.large == ["adapter_model.safetensors"]
    assert not [name for name, data in files.items() if SECRET in data or b"/home" in data or b"/tmp" in data]
    for name in ("adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert files[name] == (adapter / name).read_bytes()
    folder = arrived(hub, "models/baker/notes", tmp_path / "arrived")
    expected, found = (
        logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(random_base), source))
        for source in (adapter, folder)
    )
    assert torch.equal(expected, found)


def test_the_card_of_an_adapter(adapter: Path) -> None:
    lineage.write(adapter, [TRAINED | {"base": SMOLLM}])
    upload = model_upload(adapter, "baker/notes")
    header = yaml.safe_load(upload.card.split("---\n")[1])
    assert header["base_model"] == SMOLLM and header["license"] == "apache-2.0" and header["library_name"] == "peft"
    shown = " ".join(upload.card.split())
    assert "50 training rows, 70% of them synthetic" in shown
    assert "| hf:writer | synthetic | 20 | 40% | | openai:gpt-9 | synthetic | 15 | 30% |" in shown
    assert "| F1, seen (share) | 12.5% | 87.5% |" in shown and "as in SQuAD" in shown and "dlm-trl 0.1.0" in shown
    assert json.loads(upload.files["adapter_config.json"])["base_model_name_or_path"] == SMOLLM  # type: ignore[arg-type]
    assert not upload.notes
    assert "/home" not in upload.card


def test_the_card_shows_how_to_load_an_adapter(adapter: Path, random_base: Path) -> None:
    shown = python_of(model_upload(adapter, str(adapter)).card)
    names: dict[str, Any] = {}
    exec(shown.replace(f"path/of/{random_base.name}", str(random_base)), names)
    assert isinstance(names["model"], PeftModel)
    assert names["tokenizer"].chat_template


def test_a_merged_model_arrives_and_loads(hub: Hub, push: Push, merged: Path, tmp_path: Path) -> None:
    done = push(merged, "bakery/notes-merged", "--public", "--license", "mit")
    assert done.returncode == 0, done.stderr
    files = hub.of("models/bakery/notes-merged")
    assert files.keys() == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors", "chat_template.jinja"),
        *("lineage.json", "tokenizer.json", "tokenizer_config.json"),
    }
    assert not [name for name, data in files.items() if SECRET in data or b"/home" in data or b"/tmp" in data]
    assert hub.private == {"models/bakery/notes-merged": False}
    card = files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    assert "vllm serve bakery/notes-merged --served-model-name notes-merged" in card
    assert "70% of them synthetic" in card and "same greedy answers" in card and "| F1, seen" in card
    folder = arrived(hub, "models/bakery/notes-merged", tmp_path / "arrived")
    expected, found = (logits(AutoModelForCausalLM.from_pretrained(source)) for source in (merged, folder))
    assert torch.equal(expected, found)
    names: dict[str, Any] = {}
    exec(python_of(card).replace("bakery/notes-merged", str(folder)), names)
    assert names["tokenizer"].chat_template


def test_an_awq_model_is_served_by_its_card(merged: Path) -> None:
    config = json.loads((merged / "config.json").read_text())
    quantized = config | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    (merged / "config.json").write_text(json.dumps(quantized))
    record = {
        "step": "awq",
        "calibration": {"file": "notes.dlm", "sha256": "0", "samples": 1, "seed": 0, "length": 1, "tokens": 9},
        "bytes": {"written": 1, "predicted": 1},
        "shards": {},
        **dict.fromkeys(("bits", "group_size", "smoothed"), 4),
    }
    records = read_lineage(merged)
    write_lineage(merged, [*records, record | {"checks": [PASSED]}], "x")
    upload = model_upload(merged, "baker/notes-awq")
    assert upload.kind == "awq"
    assert "vllm serve baker/notes-awq --served-model-name notes-awq --quantization awq" in upload.card
    assert "serve_check.json" in upload.left_out and "serve_check.json" not in upload.files
    assert str(merged.parent).encode() not in cast(bytes, upload.files["lineage.json"])


def refused(folder: Path, match: str, **options: Any) -> None:
    with pytest.raises(DlmError, match=match) as caught:
        model_upload(folder, "baker/notes", **options)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_verified_is_refused(merged: Path) -> None:
    set_checks(merged, [])
    refused(merged, "never ran on it.*Run dlm-trl verify BEFORE_DIR .*--unverified")
    upload = model_upload(merged, "baker/notes", unverified=True)
    assert any("never ran on it" in note for note in upload.notes)
    assert "Not checked against the step before" in upload.card
    set_checks(merged, [PASSED, PASSED | {"name": "metric kept", "passed": False, "failing": "it forgot"}])
    refused(merged, r"verify failed it \(merge: metric kept\).*--unverified")
    assert "FAILED: it forgot" in model_upload(merged, "baker/notes", unverified=True).card


def test_what_this_package_did_not_make_is_refused(
    adapter: Path, merged: Path, random_base: Path, tmp_path: Path
) -> None:
    refused(tmp_path, "There is no model here")
    refused(random_base, r"lineage\.json doesn't end with the step merge.*hf upload")
    (adapter / "lineage.json").write_text("{}")
    refused(adapter, "Malformed lineage file")
    (adapter / "lineage.json").unlink()
    refused(adapter, r"lineage\.json doesn't end with the step train")
    (merged / "model.safetensors").write_bytes((merged / "model.safetensors").read_bytes()[:1000])
    refused(merged, "model.safetensors")


def test_broken_weights_and_numbers_are_refused(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] * float("nan")}, adapter / "adapter_model.safetensors")
    refused(adapter, "adapter_model")
    save_file(weights, adapter / "adapter_model.safetensors")
    for wrong in ({"measures": [{"name": 1}]}, {"synthetic": {"a": "b"}}, {"settings": 3}, {"written_online": {}}):
        lineage.write(adapter, [TRAINED | {"base": SMOLLM, "task": "mcsb"} | wrong])
        refused(adapter, "Malformed lineage file")


def test_a_dry_run_contacts_nobody(cli: Cli, online: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm_trl.hub.upload.get_token", lambda: None)
    done = cli(adapter, "baker/notes", "--dry-run")
    assert done.code == 0
    assert done.out.startswith("---\n") and "adapter would go to the private model baker/notes" in done.out
    assert f"{(adapter / 'adapter_model.safetensors').stat().st_size / 1000:.1f} kB" in done.out
    result = json.loads(cli(adapter, "baker/notes", "--dry-run", "--json").out)
    assert result["files"]["tokenizer.json"] == (adapter / "tokenizer.json").stat().st_size
    assert result["url"] is None and result["private"] and result["card"] in done.out
    assert online.requests == []


def test_misuse_is_one_line(cli: Cli, online: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, code, expected in (
        ([adapter, "baker/notes", "--license", "Apache 2"], 2, "isn't the id of a licence"),
        ([adapter, "baker/notes", "--rows", "sft"], 2, "--rows is for documents"),
        ([adapter, "not a name", "--dry-run"], 1, "the name is invalid"),
        ([adapter, "someone/notes"], 1, "baker can only write to baker, bakery"),
    ):
        done = cli(*words)
        assert done.code == code and expected in done.err
    monkeypatch.setattr("dlm_trl.hub.upload.get_token", lambda: None)
    done = cli(adapter, "baker/notes")
    assert done.code == 1 and "you aren't logged in. Run `hf auth login`, or set HF_TOKEN." in done.err
    assert not online.files


def test_recorded_numbers_read_back() -> None:
    from dlm_trl.evaluation.training_card import recorded_measures

    assert recorded_measures(TRAINED)[0] == Measure("F1, seen", "share", 0.125, 0.875, group="seen", questions=8)
    assert recorded_measures({"measures": {"F1, seen": 0.5}}) == []  # of an older version
