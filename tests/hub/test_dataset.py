"""Pushes of documents: the rows that arrive, what the card says about who wrote them, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, load_dataset

from dlm_trl.hub.dataset import dataset_upload
from dlm_trl.notes import DlmError, parse, read
from dlm_trl.rows.convert import KINDS, features
from dlm_trl.rows.parsed import parsed_rows
from dlm_trl.rows.views import ProseView, add_views, views_path
from tests.hub.conftest import Cli, Hub, Push

PROSE = "The ferry leaves at seven. It carries nine cars."
HEAD = """---
dlm_id: 01K9HBB1W1THS0VRD0VGH2T3RA
dlm_version: 15
base_model: tiny
system_prompt: Answer briefly.
---
"""
MARKER = (
    '<!-- dlm-auto-synth: synth_teacher="{}" synth_strategy="{}" synth_at="2026-01-05T10:00:00Z" '
    'source_section_id="0123456789abcdef" -->'
)
MINED = (
    '<!-- dlm-auto-mined: judge_name="hf:/home/ann/judge" judge_score_chosen="0.9" judge_score_rejected="0.1" '
    'mined_at="2026-01-05T10:00:00Z" mined_run_id="1" -->'
)


def pair(question: str, answer: str, teacher: str = "", strategy: str = "extraction") -> str:
    marker = f"{MARKER.format(teacher, strategy)}\n" if teacher else ""
    return f"\n::instruction::\n{marker}### Q\n{question}\n### A\n{answer}\n"


SYNTHETIC = pair("When does it leave?", "At seven.", "hf:/home/ann/writer") + pair(
    "How many cars?", "Nine.", "openai:gpt-9", "paraphrase"
)
DOCUMENT = f"{HEAD}\n# The ferry\n\n{PROSE}\n{pair('Who is the captain?', 'Ines.')}{SYNTHETIC}"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "store"))
    path = tmp_path / "ferry.dlm"
    path.write_text(DOCUMENT)
    return path


def loaded(upload_files: dict[str, Any], folder: Path, kind: str) -> Dataset:
    for name, content in upload_files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return load_dataset(str(folder), kind, split="train", cache_dir=str(folder / "cache"))


def test_the_rows_arrive_and_load(hub: Hub, push: Push, notes: Path, tmp_path: Path) -> None:
    done = push(notes, "ferry", "--license", "cc-by-4.0")
    assert done.returncode == 0, done.stderr
    assert "dataset went to the private dataset baker/ferry:" in done.stdout
    assert "The text of the notes is in it: 1 section" in done.stderr and "No licence" not in done.stderr
    files = hub.of("datasets/baker/ferry")
    assert files.keys() == {"README.md", "data/sft-train.parquet", "data/prose-train.parquet"}
    assert hub.large == ["data/sft-train.parquet", "data/prose-train.parquet"]
    for kind in ("sft", "prose"):
        found = loaded(files, tmp_path / "arrived", kind)
        expected = parsed_rows(read(notes), kind)
        assert expected is not None and found.features == features(kind)
        hidden = ["source_file", "teacher"]
        assert found.remove_columns(hidden).to_list() == expected.remove_columns(hidden).to_list()
        assert set(found["source_file"]) == {"ferry.dlm"}
    assert loaded(files, tmp_path / "arrived", "sft")["teacher"][:] == [None, "hf:writer", "openai:gpt-9"]
    assert loaded(files, tmp_path / "arrived", "sft")[0]["prompt"][0] == {
        "role": "system",
        "content": "Answer briefly.",
    }
    assert not [name for name, data in files.items() if b"/home" in data or str(tmp_path).encode() in data]


def test_the_card(notes: Path) -> None:
    card = dataset_upload(read(notes), "baker/ferry", "cc-by-4.0").card
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "cc-by-4.0" and "synthetic" in header["tags"]
    assert [(c["config_name"], c["data_files"][0]["path"]) for c in header["configs"]] == [
        ("sft", "data/sft-train.parquet"),
        ("prose", "data/prose-train.parquet"),
    ]
    assert "4 rows, 2 of them synthetic (50%)" in card and "Licence: cc-by-4.0." in card
    assert "| hf:writer | sft | 1 | 25.0% |" in " ".join(card.split()) and "paraphrase (1)" in card
    assert 'load_dataset("baker/ferry", "prose", split="train")' in card
    assert "/home" not in card


def test_a_missing_licence_is_said(notes: Path) -> None:
    upload = dataset_upload(read(notes), "baker/ferry")
    assert "license" not in yaml.safe_load(upload.card.split("---\n")[1])
    assert "**Licence: fill it in.**" in upload.card and any("--license" in note for note in upload.notes)


def test_only_people_wrote_it(notes: Path) -> None:
    notes.write_text(DOCUMENT.replace(SYNTHETIC, ""))
    card = dataset_upload(read(notes), "baker/ferry").card
    assert "Nothing: people wrote all rows." in card and "synthetic" not in card.split("---\n")[1]


def test_chosen_kinds(notes: Path) -> None:
    upload = dataset_upload(read(notes), "baker/ferry", kinds=["sft"])
    assert upload.files.keys() == {"README.md", "data/sft-train.parquet"}
    assert not any("text of the notes" in note for note in upload.notes)
    with pytest.raises(DlmError, match="no rows of these kinds: preference"):
        dataset_upload(read(notes), "baker/ferry", kinds=["preference"])


def test_views_are_synthetic(notes: Path, tmp_path: Path) -> None:
    document = read(notes)
    view = ProseView(
        section_id=document.sections[0].section_id,
        line=9,
        kind="rewrite",
        text="At seven the ferry goes.",
        facts=("The ferry leaves at seven.",),
        teacher="anthropic:writer",
        at="2026-01-05T10:00:00Z",
        request_key="k",
    )
    views_path(document).parent.mkdir(parents=True)
    add_views(document, [view])
    upload = dataset_upload(document, "baker/ferry")
    assert "5 rows, 3 of them synthetic (60%)" in upload.card and "| anthropic:writer | views | 1 |" in " ".join(
        upload.card.split()
    )
    assert loaded(dict(upload.files), tmp_path / "arrived", "views")["text"][:] == [view.text]


def test_judged_answers_are_mentioned(notes: Path) -> None:
    mined = f"\n::preference::\n{MINED}\n### Prompt\nWho?\n### Chosen\nInes.\n### Rejected\nBob.\n"
    notes.write_text(DOCUMENT + mined)
    card = dataset_upload(read(notes), "baker/ferry").card
    assert "by the judge that ranked them" in card and "hf:judge (1)" in card and "| preference |" in card


@pytest.mark.parametrize("teacher", [" ", "unknown", "None"])
def test_an_unknown_teacher_is_refused_with_its_line(notes: Path, teacher: str) -> None:
    notes.write_text(DOCUMENT.replace("openai:gpt-9", teacher))
    with pytest.raises(DlmError, match="its teacher isn't known") as caught:
        dataset_upload(read(notes), "baker/ferry")
    assert caught.value.line == 1 + notes.read_text().splitlines().index("How many cars?") - 1


def test_a_broken_document_and_misuse_are_one_line(cli: Cli, notes: Path) -> None:
    assert "--unverified is for models" in cli(notes, "baker/ferry", "--unverified").err
    notes.write_text(DOCUMENT.replace("### A\nInes.", ""))
    done = cli(notes, "baker/ferry", "--dry-run")
    assert done.code == 1 and done.err.startswith(f"{notes}:")


def test_every_kind_of_rows_is_one_of_the_dataset() -> None:
    from dlm_trl.hub.dataset import KINDS as SENT

    assert set(SENT) - {"views"} <= set(KINDS)
    assert parse(DOCUMENT).sections
