"""Find tensors in a file or shards, in a folder or the Hub's cache; missing and damaged files are reported."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dlm_trl.models.weights import INDEX, SINGLE, find_weights, hub_hint
from dlm_trl.notes import DlmError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def sharded(random_base: Path, tmp_path: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(random_base).save_pretrained(tmp_path / "model", max_shard_size="100KB")
    return tmp_path / "model"


def refused(base: str, match: str) -> None:
    with pytest.raises(DlmError, match=match) as caught:
        find_weights(base).shapes()
    assert caught.value.kind == "BaseModelError"
    assert "\n" not in str(caught.value)


def test_shards_equal_a_single_file(random_base: Path, sharded: Path) -> None:
    one, many = find_weights(str(random_base)), find_weights(str(sharded))
    assert (one.folder, one.revision) == (random_base, None)
    assert len(set(many.files.values())) > 2
    assert one.shapes() == many.shapes()
    expected = load_file(random_base / SINGLE)
    assert one.files.keys() == expected.keys()
    for name, tensor in expected.items():
        assert one.shapes()[name] == (tensor.shape, tensor.dtype)
        assert one.shapes()[name].bytes == tensor.nbytes
        assert torch.equal(many.read(name), tensor)


def test_the_cache_of_the_hub_is_found_with_its_commit(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--baker--notes"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).symlink_to(random_base)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    weights = find_weights("hf:baker/notes")
    assert weights.revision == COMMIT
    assert "model.norm.weight" in weights.files
    refused("hf:baker/other", "Can't get")


def test_missing_shards_are_reported(sharded: Path) -> None:
    gone = sorted(sharded.glob("model-*.safetensors"))[1:3]
    for shard in gone:
        shard.unlink()
    refused(str(sharded), f"Shards are missing: {gone[0].name}, {gone[1].name}")


def test_a_malformed_model_is_reported(sharded: Path, tmp_path: Path) -> None:
    shard = next(sharded.glob("model-*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    refused(str(sharded), f"{shard.name}: Not a complete safetensors file")
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    refused(str(sharded), f"{shard.name}: Not a complete safetensors file")
    index = json.loads((sharded / INDEX).read_text())
    shard.write_bytes(content)
    (sharded / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | {"model.extra": shard.name}}))
    refused(str(sharded), "Not a complete safetensors file.*model.extra")
    (sharded / INDEX).write_text("[]")
    refused(str(sharded), "Not an index of safetensors files")
    (sharded / INDEX).unlink()
    (sharded / "pytorch_model.bin").touch()
    refused(str(sharded), r"Weights in \.bin files are not supported")
    refused(str(tmp_path / "nowhere"), "Unknown base model")


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (403, "GatedRepo", "Accept its terms on its page on the Hub, and log in: "),
        (404, "RepoNotFound", "Check the name. For a private model, log in: "),
        (401, "", "Check the name. For a private model, log in: "),
    ],
)
def test_a_model_that_the_hub_refuses_says_what_to_do(
    status: int, code: str, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with pytest.raises(
            DlmError, match=f"Can't get the base model 'hf:a/b' from a/b: .*{status}.* {hint}"
        ) as caught:
            find_weights("hf:a/b")
        server.shutdown()
    with pytest.raises(OSError) as wrapped:  # as transformers does
        raise OSError("You are trying to access this model.") from caught.value.__cause__
    assert hub_hint(wrapped.value).startswith(hint)
