"""Paths in the store, and the current adapter."""

import shutil
from pathlib import Path

import pytest

from dlm_trl.notes import DlmError, store

ID = "01JTRX0000000000000000000A"


@pytest.fixture(autouse=True)
def dlm_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_paths(dlm_home: Path) -> None:
    assert store.document_store(ID) == dlm_home / "store" / ID
    assert store.synth_dir(ID) == dlm_home / "store" / ID / "synth"
    assert store.adapter_dir(ID, "poet") == dlm_home / "store" / ID / "adapter" / "poet"
    assert not dlm_home.exists()


def test_home_is_in_the_users_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLM_HOME")
    assert store.home() == Path.home() / ".dlm"


@pytest.mark.parametrize("name", [None, "poet"])
def test_the_current_adapter_moves_with_its_store(
    name: str | None, dlm_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.current_adapter(ID, name) is None
    for version in ("v0001", "v0002"):
        folder = store.next_version(ID, name)
        assert folder.name == version
        folder.mkdir(parents=True)
        store.set_current_adapter(ID, folder, name)
        assert store.current_adapter(ID, name) == folder
    dlm_home.rename(tmp_path / "moved")
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "moved"))
    assert store.current_adapter(ID, name) == store.adapter_dir(ID, name) / "versions" / "v0002"


def test_a_pointer_to_a_missing_or_outside_folder_is_an_error(tmp_path: Path) -> None:
    folder = store.next_version(ID)
    folder.mkdir(parents=True)
    store.set_current_adapter(ID, folder)
    pointer = store.adapter_dir(ID) / "current.txt"
    assert pointer.read_text() == "adapter/versions/v0001\n"
    shutil.rmtree(folder)
    for text in ("adapter/versions/v0001\n", "../../..\n", "\n"):
        pointer.write_text(text)
        with pytest.raises(DlmError) as caught:
            store.current_adapter(ID)
        assert caught.value.kind == "StoreError"
    with pytest.raises(DlmError):
        store.set_current_adapter(ID, tmp_path)
