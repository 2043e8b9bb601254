"""Every way to load documents gives the same rows with their provenance, and errors have file and line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from datasets import load_dataset

from dlm_trl.notes import DlmError, read
from dlm_trl.notes.parser import MAX_BYTES
from dlm_trl.rows.convert import KINDS, features
from dlm_trl.rows.load import load_dlm
from tests.rows.conftest import NOTES, PROSE_ID, SYNTH, Write, convert


def by_name(data_files: Any, kind: str = "sft", **options: Any) -> Any:
    return load_dataset("dlm_trl/dlm", kind, data_files=data_files, **options)


@pytest.fixture(params=[by_name, load_dlm], ids=["load_dataset", "load_dlm"])
def load(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param


def zipped(path: Path) -> Path:
    archive = path.parent / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, "inner/notes.dlm")
        file.writestr("inner/README.md", "not a document")
    return archive


def gzipped(path: Path) -> Path:
    target = path.parent / "notes.dlm.gz"
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def in_memory(path: Path) -> str:
    # The download cache is keyed by URL, so each test has its own.
    url = f"memory://{path.parent.name}/notes.dlm"
    with fsspec.open(url, "wb") as file:
        file.write(path.read_bytes())
    return url


WAYS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: str(path),
    "list": lambda path: [str(path)],
    "glob": lambda path: str(path.parent / "*.dlm"),
    "dict": lambda path: {"train": str(path)},
    "dict of lists": lambda path: {"train": [str(path)]},
    "file URL": lambda path: path.as_uri(),
    "zip": lambda path: str(zipped(path)),
    "gz": lambda path: str(gzipped(path)),
    "memory": in_memory,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("streaming", [False, True], ids=["cached", "streaming"])
def test_every_way_to_name_a_document_gives_the_same_rows(
    write: Write, load: Callable[..., Any], way: str, streaming: bool
) -> None:
    path = write()
    splits = load(WAYS[way](path), streaming=streaming)
    assert list(splits) == ["train"]
    rows = list(splits["train"])
    sources = {row.pop("source_file") for row in rows}
    expected = convert(read(path))
    assert rows == [{k: v for k, v in row.items() if k != "source_file"} for row in expected] and len(rows) == 3
    assert len(sources) == 1 and "notes.dlm" in sources.pop()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_have_their_columns_streaming_or_not(write: Write, load: Callable[..., Any], kind: str) -> None:
    path = str(write())
    cached, streamed = load(path, kind)["train"], load(path, kind, streaming=True)["train"]
    assert list(cached) == list(streamed) == convert(read(path), kind)
    assert cached.features == streamed.features == features(kind)


def test_the_default_kind_is_sft(write: Write) -> None:
    path = str(write())
    rows = load_dataset("dlm_trl/dlm", data_files=path)["train"]
    assert list(rows) == list(load_dlm(path)["train"]) and "prompt" in rows.column_names


def test_splits_and_one_of_them(write: Write, load: Callable[..., Any]) -> None:
    files = {"train": str(write("a.dlm")), "test": str(write("b.dlm", "Other prose."))}
    splits = load(files, "prose")
    assert {name: splits[name]["text"][:] for name in splits} == {
        "train": ["Prose one.", "Prose two."],
        "test": ["Other prose."],
    }
    assert load(files, "prose", split="test")["text"][:] == ["Other prose."]
    assert [row["text"] for row in load(files, "prose", split="test", streaming=True)] == ["Other prose."]


@pytest.mark.parametrize("streaming", [False, True], ids=["cached", "streaming"])
def test_a_folder_loads_by_name_by_data_dir_and_by_load_dlm(
    write: Write, streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write("notes/a.dlm").parent
    write("notes/deeper/b.dlm", "Deeper prose.")
    (folder / "a.dlm.bak").write_text("an old copy, not a document")
    ways = {
        "folder": load_dataset(str(folder), kind="prose", streaming=streaming),
        "data_dir": load_dataset("dlm_trl/dlm", "prose", data_dir=str(folder), streaming=streaming),
        "load_dlm": load_dlm(folder, "prose", streaming=streaming),
        "load_dlm data_dir": load_dlm(data_dir=folder, kind="prose", streaming=streaming),
    }
    for way, splits in ways.items():
        assert [row["text"] for row in splits["train"]] == ["Prose one.", "Prose two.", "Deeper prose."], way
    assert "Skipped" not in caplog.text


def zipped_alone(path: Path) -> None:
    # With a README next to them, `datasets` takes packed documents for another format, like those in a folder.
    with zipfile.ZipFile(path.parent / "archive.zip", "w") as file:
        file.write(path, "notes.dlm")


@pytest.mark.parametrize("pack", [zipped_alone, gzipped])
@pytest.mark.parametrize("streaming", [False, True], ids=["cached", "streaming"])
def test_a_folder_of_packed_documents_loads(write: Write, pack: Callable[[Path], Any], streaming: bool) -> None:
    folder = write("notes/notes.dlm").parent
    pack(folder / "notes.dlm")
    (folder / "notes.dlm").unlink()
    for splits in (load_dataset(str(folder), streaming=streaming), load_dlm(folder, streaming=streaming)):
        assert len(list(splits["train"])) == 3


@pytest.mark.parametrize("streaming", [False, True], ids=["cached", "streaming"])
def test_an_encrypted_archive_is_an_error_of_one_line_and_can_be_skipped(write: Write, streaming: bool) -> None:
    document = write("notes.dlm")
    archive = zipped(document)
    data = bytearray(archive.read_bytes())
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags in both headers of each member
        at = data.find(header)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(header, at + 1)
    archive.write_bytes(data)
    with pytest.raises(DlmError, match="encrypted"):
        list(load_dlm(str(archive), "prose", split="train", streaming=streaming))
    files = [str(archive), str(document)]
    rows = load_dlm(files, "prose", split="train", streaming=streaming, on_error="skip")
    assert [row["text"] for row in rows] == ["Prose one.", "Prose two."]


@pytest.mark.parametrize("streaming", [False, True], ids=["cached", "streaming"])
@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        (".gz", lambda raw: gzip.compress(raw)[:-40]),
        (".bz2", lambda raw: bz2.compress(raw)[:-40]),
        (".xz", lambda raw: lzma.compress(raw)[:-40]),
        (".gz", lambda raw: raw),
        (".xz", lambda raw: raw),
        (".bz2", lambda raw: raw),
        (".zst", lambda raw: raw),
        (".lz4", lambda raw: raw),
        (".gz", lambda raw: gzip.compress(raw + b"\n" * MAX_BYTES, compresslevel=1)),
    ],
    ids=["cut .gz", "cut .bz2", "cut .xz", "no .gz", "no .xz", "no .bz2", "no .zst", "no .lz4", "bomb"],
)
def test_a_damaged_packed_document_is_an_error_of_one_line(
    write: Write, ending: str, pack: Callable[[bytes], bytes], streaming: bool
) -> None:
    document = write("notes.dlm")
    packed = document.with_name(f"packed.dlm{ending}")
    packed.write_bytes(pack(document.read_bytes()))
    with pytest.raises(DlmError, match=re.escape(packed.name)):
        list(load_dlm(str(packed), "prose", split="train", streaming=streaming))
    rows = load_dlm([str(packed), str(document)], "prose", split="train", streaming=streaming, on_error="skip")
    assert [row["text"] for row in rows] == ["Prose one.", "Prose two."]


def test_a_folder_loads_with_workers(write: Write) -> None:
    folder = write("notes/a.dlm").parent
    write("notes/b.dlm", "Deeper prose.")
    rows = load_dataset(str(folder), kind="prose", num_proc=2)["train"]
    assert rows["text"][:] == ["Prose one.", "Prose two.", "Deeper prose."]


def test_the_files_of_a_folder_name_their_splits(write: Write) -> None:
    folder = write("notes/train.dlm").parent
    write("notes/test.dlm", "Held out.")
    for splits in (load_dataset(str(folder), kind="prose"), load_dlm(folder, "prose")):
        assert splits["test"]["text"][:] == ["Held out."] and len(splits["train"]) == 2


def test_a_folder_with_a_readme_loads_by_data_dir(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write("notes/a.dlm").parent
    (folder / "guide.md").write_text("# not a document")
    assert len(load_dataset("dlm_trl/dlm", data_dir=str(folder))["train"]) == 3
    assert "Skipped 1 file(s)" in caplog.text and "guide.md" in caplog.text


def test_workers_give_the_same_rows_in_the_same_order(write: Write, load: Callable[..., Any], tmp_path: Path) -> None:
    files = [str(write(f"{i}.dlm", f"Prose {i}.\n" + NOTES)) for i in range(5)]
    one = load(files, "sections")["train"]
    several = load(files, "sections", num_proc=3, cache_dir=tmp_path / "other cache")["train"]
    assert list(one) == list(several) and len(one) == 5 * 5


def test_streaming_shards_by_file_shuffles_and_resumes(write: Write) -> None:
    files = [str(write(f"{i}.dlm", f"Prose {i}.\n" + NOTES)) for i in range(4)]
    stream = load_dlm(files, streaming=True, split="train")
    assert stream.num_shards == 4
    rows = list(stream)
    assert sorted(map(str, stream.shuffle(seed=1))) == sorted(map(str, rows))
    parts = [list(stream.shard(num_shards=2, index=i)) for i in range(2)]
    assert parts[0] + parts[1] == rows
    resumed = load_dlm(files, streaming=True, split="train")
    iterator = iter(resumed)
    seen = [next(iterator) for _ in range(7)]
    state = resumed.state_dict()
    again = load_dlm(files, streaming=True, split="train")
    again.load_state_dict(state)
    assert seen + list(again) == rows


def test_a_row_has_its_provenance(write: Write) -> None:
    path = write()
    lines = path.read_text().splitlines()
    rows = load_dlm(path, split="train")
    for row in rows:
        question = next(turn["content"] for turn in row["prompt"] if turn["role"] == "user")
        assert lines[row["line"]] == question and row["source_file"] == str(path)
    human, synth = rows[0], rows[2]
    assert (human["auto_synth"], human["teacher"], human["source_section_id"]) == (False, None, None)
    assert (synth["auto_synth"], synth["teacher"], synth["strategy"]) == (True, "self", "extraction")
    assert synth["source_section_id"] == PROSE_ID
    prose = load_dlm(path, "prose", split="train")
    assert [lines[row["line"] - 1] for row in prose] == ["Prose one.", "Prose two."]


def test_a_changed_file_is_read_again_on_both_paths(write: Write) -> None:
    path = write("notes/a.dlm", "Before.")
    loads = [lambda: load_dlm(path, "prose"), lambda: load_dataset(str(path.parent), kind="prose")]
    assert [load()["train"]["text"][0] for load in loads] == ["Before."] * 2
    write("notes/a.dlm", "After it.")
    assert [load()["train"]["text"][0] for load in loads] == ["After it."] * 2


BROKEN = "::instruction::\n### Q\nNo answer.\n"


def test_the_rows_of_short_documents_are_stored_together(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table of a dataset takes memory: 100,000 documents with one of their own took 1.7 GB."""
    monkeypatch.setattr("dlm_trl.rows.builder.ROWS_PER_TABLE", 20)
    for number in range(15):
        write(f"many/{number:02d}.dlm", NOTES.replace("Who", f"{number}: who"))
    rows = load_dlm(write("many/15.dlm").parent, split="train")
    assert [len(chunk) for chunk in rows.data["prompt"].chunks] == [21, 21, 6]
    asked = [row["prompt"][-1]["content"] for row in rows if "wrote" in row["prompt"][-1]["content"]]
    assert asked == [*(f"{number}: who wrote it?" for number in range(15)), "Who wrote it?"]


@pytest.mark.parametrize("options", [{}, {"streaming": True}, {"num_proc": 2}], ids=["cached", "streaming", "workers"])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (BROKEN.encode(), "b.dlm:9:"),
        (b"::std::\n", "b.dlm:6:"),
        (b"bad \xff byte", "b.dlm"),
    ],
    ids=["pair", "fence", "encoding"],
)
def test_a_broken_document_fails_with_file_and_line_or_is_skipped(
    write: Write,
    load: Callable[..., Any],
    options: dict[str, Any],
    text: bytes,
    place: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = [write("a.dlm"), write("b.dlm", ""), write("c.dlm")]
    files[1].write_bytes(files[1].read_bytes() + text)
    names = [str(file) for file in files]
    with pytest.raises(DlmError, match=place.replace(".", r"\.")):
        list(load(names, **options)["train"])
    rows = list(load(names, on_error="skip", **options)["train"])
    assert {row["source_file"] for row in rows} == {names[0], names[2]} and len(rows) == 6
    if "num_proc" not in options:
        assert "Skipped (document 1)" in caplog.text and place in caplog.text


@pytest.mark.parametrize("streaming", [False, True], ids=["cached", "streaming"])
def test_a_broken_archive_is_named_or_skipped(write: Write, load: Callable[..., Any], streaming: bool) -> None:
    good = write("good.dlm")
    broken = [good.with_name(name) for name in ("broken.zip", "broken.dlm.gz", "cut.dlm.gz")]
    for path, data in zip(broken, (b"no zip", b"no gzip", gzip.compress(good.read_bytes())[:50]), strict=True):
        path.write_bytes(data)
        with pytest.raises(DlmError, match=f"{path.name}: The file cannot be read"):
            list(load(str(path), streaming=streaming)["train"])
    names = [str(path) for path in [*broken, good]]
    rows = list(load(names, on_error="skip", streaming=streaming)["train"])
    assert [row["source_file"] for row in rows] == [names[-1]] * 3
    with pytest.raises(DlmError, match=r"3 document.*3 of them broken"):
        list(load(names[:-1], on_error="skip", streaming=streaming)["train"])


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens but does not read")
def test_an_unreadable_file_is_one_clear_error(write: Write, load: Callable[..., Any]) -> None:
    path = write("a.dlm").with_name("unreadable.dlm")
    path.symlink_to("/proc/self/mem")
    with pytest.raises(DlmError, match="cannot be read"):
        load(str(path))


def test_file_names_may_contain_glob_characters(write: Write, tmp_path: Path) -> None:
    path = write("my [notes]/a [draft]?.dlm")
    for files in (path, [path], {"train": path}, path.parent):
        assert set(load_dlm(files, split="train")["source_file"]) == {str(path)}
    assert len(load_dlm("*.dlm", data_dir=path.parent, split="train")) == 3
    assert load_dlm(path.name, data_dir=path.parent, split="train")["source_file"][0] == str(path)


def test_file_names_may_not_be_utf8(write: Write) -> None:
    path = write("notes/a.dlm", "Own prose.", SOURCES)
    source = path.parent / "texts" / os.fsdecode(b"h\xe9ron.txt")
    source.parent.mkdir()
    source.write_text("A heron waits.")
    assert load_dlm(path, "prose", split="train", expand_sources=True)["source_file"][1].endswith("h\ufffdron.txt")
    renamed = path.rename(path.with_name(os.fsdecode(b"\xe9.dlm")))
    assert load_dlm(renamed, "prose", split="train")["source_file"][0].endswith("\ufffd.dlm")


@pytest.mark.parametrize("options", [{}, {"streaming": True}, {"num_proc": 2}], ids=["cached", "streaming", "workers"])
def test_no_rows_is_an_error_with_a_summary(write: Write, load: Callable[..., Any], options: dict[str, Any]) -> None:
    files = [str(write(f"{i}.dlm", "Prose.\n::instruction::\n### Q\nq\n### A\na\n")) for i in range(3)]
    with pytest.raises(DlmError, match=r"'train' has no rows of kind 'preference'.*3 document.*3 instruction, 3 prose"):
        splits = load(files, "preference", **options)
        list(splits["train"])
    assert list(load(files, "prose", streaming=True)["train"])


def test_rows_in_one_of_many_documents_are_enough(write: Write, tmp_path: Path) -> None:
    files = [str(write(f"{i}.dlm", "Prose.")) for i in range(4)]
    files.insert(2, str(write()))
    for options in ({}, {"num_proc": 5, "cache_dir": tmp_path / "other cache"}, {"streaming": True}):
        assert len(list(load_dlm(files, **options)["train"])) == 3, options


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: load_dlm(folder / "missing.dlm"), "missing.dlm"),
        (lambda folder: load_dlm([folder / "a.dlm", folder / "missing.dlm"]), "No documents found: .*missing.dlm'"),
        (lambda folder: load_dlm("missing.dlm", data_dir=folder), "missing.dlm"),
        (lambda folder: load_dlm(folder / "a.dlm", streaming=True, num_proc=2), "num_proc can't be combined"),
        (lambda folder: load_dlm(folder / "missing" / "*.dlm"), "No files found"),
        (lambda folder: load_dlm(folder / "a.dlm", "stf"), "Unknown kind of rows 'stf'"),
        (lambda folder: load_dlm(folder / "a.dlm", on_error="ignore"), "on_error is 'ignore'"),
        (lambda folder: load_dlm(folder / "a.txt"), "None of the 1 files"),
        (lambda folder: load_dlm(folder / "a.dlm", adapter="nobody"), "for adapter 'nobody'"),
        (lambda folder: load_dlm(), "No documents to load"),
        (lambda folder: load_dataset(str(folder), kind="stf", data_files="a.dlm"), "Unknown kind of rows 'stf'"),
        (lambda folder: load_dlm(folder / "a.dlm.gz", expand_sources=True), "local, uncompressed"),
    ],
)
def test_misuse_is_one_clear_error(write: Write, call: Callable[[Path], Any], message: str) -> None:
    path = write("a.dlm")
    gzipped(path).rename(path.parent / "a.dlm.gz")
    (path.parent / "a.txt").write_text("text")
    with pytest.raises(DlmError, match=message):
        call(path.parent)


def test_synthesised_pairs_can_be_selected(write: Write) -> None:
    path = write()
    human, synth = load_dlm(path, "sft_human", split="train"), load_dlm(path, "sft_synth", split="train")
    assert not any(human["auto_synth"]) and all(synth["auto_synth"])
    assert sorted([*human["line"], *synth["line"]]) == sorted(load_dlm(path, split="train")["line"])
    only_human = write("human.dlm", NOTES.replace(SYNTH.format(id=PROSE_ID), ""))
    with pytest.raises(DlmError, match="no rows of kind 'sft_synth'"):
        load_dlm(only_human, "sft_synth")


SOURCES = "training:\n  sources:\n    - path: texts\n"


def test_sources_are_only_read_on_request_with_tags_and_weights(write: Write, load: Callable[..., Any]) -> None:
    path = write("notes/a.dlm", "Own prose.", SOURCES)
    texts = path.parent / "texts"
    (texts / ".dlm").mkdir(parents=True)
    (texts / "heron.txt").write_text("A heron waits.\n")
    (texts / ".dlm" / "training.yaml").write_text(
        "dlm_training_version: 1\nmetadata: {lang: en}\nweights: {lang: {en: 2.5}}\n"
    )
    (own,) = load(str(path), "prose")["train"]
    assert (own["text"], own["weight"], own["tags"]) == ("Own prose.", 1.0, [])
    for streaming in (False, True):
        _, added = load(str(path), "prose", expand_sources=True, streaming=streaming)["train"]
        assert added["text"] == "# source: heron.txt\n\nA heron waits." and added["weight"] == 2.5
        assert added["tags"] == [{"key": "lang", "value": "en"}] and added["source_file"] == str(texts / "heron.txt")


def test_a_changed_source_is_read_again(write: Write, load: Callable[..., Any]) -> None:
    path = write("notes/a.dlm", "Own prose.", SOURCES)
    source = path.parent / "texts" / "heron.txt"
    source.parent.mkdir()
    for text in ("A heron waits.", "A heron flies."):
        source.write_text(text)
        assert load(str(path), "prose", expand_sources=True)["train"]["text"][1].endswith(text)
