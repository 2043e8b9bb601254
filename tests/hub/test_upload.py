"""Uploads: what arrives, what is removed, and what is refused."""

from pathlib import Path

import pytest

from dlm_trl.hub.upload import Upload, check_hub, check_repo_id, push_files
from dlm_trl.notes import DlmError
from tests.hub.conftest import Hub


def upload(tmp_path: Path, weights: str = "model.safetensors", repo_type: str = "model") -> Upload:
    (tmp_path / weights).write_bytes(bytes(range(256)) * 100)
    files = {"README.md": b"# A model", weights: tmp_path / weights}
    return Upload("merged", repo_type, files, ("*.safetensors",))  # type: ignore[arg-type]


def refused(call: object, match: str) -> None:
    with pytest.raises(DlmError, match=match) as caught:
        call()  # type: ignore[operator]
    assert caught.value.kind == "HubError"
    assert "\n" not in str(caught.value)


def test_the_files_arrive_in_a_new_private_repository(online: Hub, tmp_path: Path) -> None:
    pushed = push_files(upload(tmp_path), "notes")
    assert pushed == ("baker/notes", f"{online.address}/models/baker/notes/commit/c0ffee", True)
    assert online.private == {"models/baker/notes": True}
    assert online.of("models/baker/notes") == {"README.md": b"# A model", "model.safetensors": bytes(range(256)) * 100}
    assert online.large == ["model.safetensors"]


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_weights_of_an_earlier_push_are_removed_and_other_files_stay(
    online: Hub, tmp_path: Path, repo_type: str
) -> None:
    repo = f"{repo_type}s/baker/notes"
    push_files(upload(tmp_path, "model-00001-of-00002.safetensors", repo_type), "baker/notes")
    online.files[f"{repo}/picture.png"] = b"by hand"
    push_files(upload(tmp_path, "model.safetensors", repo_type), "baker/notes")
    assert online.of(repo).keys() == {"README.md", "model.safetensors", "picture.png"}


def test_visibility(online: Hub, tmp_path: Path) -> None:
    assert not push_files(upload(tmp_path), "bakery/open", private=False).private
    assert online.private == {"models/bakery/open": False}
    online.files.clear()
    refused(lambda: push_files(upload(tmp_path), "bakery/open"), "exists and is public.*--public")
    assert not online.files
    assert not push_files(upload(tmp_path), "bakery/open", private=False).private
    push_files(upload(tmp_path), "shut")
    assert push_files(upload(tmp_path), "shut", private=False).private  # an existing one keeps its visibility


def test_problems_are_reported_before_the_work(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_hub("notes") == "baker/notes"
    assert check_hub("bakery/notes") == "bakery/notes"
    refused(lambda: check_hub("someone/notes"), "baker can only write to baker, bakery")
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    refused(lambda: check_hub("baker/notes"), "doesn't answer")
    monkeypatch.setattr("dlm_trl.hub.upload.get_token", lambda: None)
    refused(lambda: check_hub("baker/notes"), "you aren't logged in")
    for name in ("a name with spaces", "a/b/c", "", "-x", "x" * 200):
        refused(lambda name=name: check_repo_id(name), "the name is invalid")  # type: ignore[misc]


def test_a_server_that_fails_is_reported(online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hub.conftest.Handler.action", lambda *_: {"error": {"code": 413, "message": "full"}})
    refused(lambda: push_files(upload(tmp_path), "notes"), "the upload failed.*Run the same command again")
    assert not online.files
