"""Paths in the store, and the current adapter."""

import shutil
from concurrent.futures import ThreadPoolExecutor
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
    for text in (b"adapter/versions/v0001\n", b"../../..\n", b"\n", b"\xff\xfe\x00v0001"):
        pointer.write_bytes(text)
        with pytest.raises(DlmError) as caught:
            store.current_adapter(ID)
        assert caught.value.kind == "StoreError"
    with pytest.raises(DlmError):
        store.set_current_adapter(ID, tmp_path)


def test_versions_that_are_published_at_once_are_all_whole(tmp_path: Path) -> None:
    files = []
    for k in range(20):
        files.append(tmp_path / f"file-{k}")
        files[-1].write_bytes(bytes([k]) * 10_000)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: store.publish_adapter(ID, files), range(24)))
    assert sorted(folder.name for folder in folders) == [f"v{k:04d}" for k in range(1, 25)]
    for folder in folders:
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {f.name: f.read_bytes() for f in files}
    assert store.current_adapter(ID) in folders
    assert sorted(file.name for file in folders[0].parent.iterdir()) == sorted(folder.name for folder in folders)


def test_an_adapter_that_cannot_be_copied_leaves_the_last_one(tmp_path: Path) -> None:
    whole = tmp_path / "adapter.bin"
    whole.write_bytes(b"weights")
    first = store.publish_adapter(ID, [whole])
    with pytest.raises(DlmError, match="can't be copied to the document's store") as caught:
        store.publish_adapter(ID, [whole, tmp_path / "missing"])
    assert caught.value.kind == "StoreError"
    assert store.current_adapter(ID) == first
    assert [folder.name for folder in first.parent.iterdir()] == ["v0001"]


def test_a_store_that_cannot_take_an_adapter_is_found_early(
    dlm_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.check_writable(ID, 1)
    with pytest.raises(DlmError, match="MiB are free, and the adapter needs"):
        store.check_writable(ID, 2**70)
    (tmp_path / "file").touch()
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "file"))
    with pytest.raises(DlmError, match="can't be written: Not a directory"):
        store.check_writable(ID, 1)
