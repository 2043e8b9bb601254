"""Which rows of a document and of its store are trained, and with which weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dlm_trl.notes import read
from dlm_trl.notes.sentences import sentences
from dlm_trl.rows.split import in_validation
from dlm_trl.rows.views import ProseView, add_views, views_path
from dlm_trl.train.arguments import NotesArguments, TaskArguments
from dlm_trl.train.config import read_configuration
from dlm_trl.train.data import Rows, read_rows
from dlm_trl.train.prepare import prepare
from dlm_trl.train.spec import evaluation_spec

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n---\n"
PROSE = [f"Tree number {i} grows beside water. Its bark is as red as brick {i}.\n" for i in range(20)]
PAIR = "::instruction::\n### Q\nWhat grows?\n### A\nA tree.\n"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document of twenty sections, with three prose views of each in its store."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    path = tmp_path / "notes.dlm"
    path.write_text(HEAD + "\n::prose::\n".join(PROSE) + PAIR)
    document = read(path)
    views_path(document).parent.mkdir(parents=True)
    views = [
        ProseView(
            section_id=section.section_id, line=section.content_line, kind="rewrite",
            text=f"Water is near tree {number}, said {who}.", facts=(sentences(section.content)[0],), teacher="hf:t",
            at="2026-01-01T00:00:00Z", request_key="k",
        )
        for number, section in enumerate(document.sections[:20])
        for who in ("one", "two", "three")
    ]  # fmt: skip
    add_views(document, views)
    return path


@pytest.fixture
def rows(notes: Path) -> Callable[..., Rows]:
    def rows(**settings: object) -> Rows:
        arguments = NotesArguments(notes=str(notes), **settings)  # type: ignore[arg-type]
        return read_rows(read(notes), arguments, evaluation_spec(arguments, TaskArguments(), seed=7))

    return rows


@pytest.mark.parametrize("prose", [True, False])
def test_views_of_held_out_prose_are_not_trained(rows: Callable[..., Rows], notes: Path, prose: bool) -> None:
    found = rows(validation_fraction=0.4, prose=prose)
    trained = {s.section_id for s in read(notes).sections[:20] if not in_validation(s.bare_id, 0.4, 7)}
    assert found.views is not None and 0 < len(trained) < 20
    assert set(found.views["source_section_id"]) == trained and len(found.views) == 3 * len(trained)
    assert found.provenance()["views"] == len(found.views)
    assert (found.prose is not None) == prose


def test_their_weight(rows: Callable[..., Rows]) -> None:
    everything = {"validation_fraction": 0.0}
    assert rows(**everything, views=0.0).views is None
    assert len(rows(**everything, views=2.0).views or ()) == 120
    assert 15 < len(rows(**everything, views=0.5).views or ()) < 45


def test_views_of_an_edited_sentence_are_not_trained(rows: Callable[..., Rows], notes: Path) -> None:
    notes.write_text(notes.read_text().replace("Tree number 3 grows", "Tree number 3 stands"))
    found = rows(validation_fraction=0.0)
    assert found.views is not None and len(found.views) == 57
    assert not any("tree 3," in text for text in found.views["text"])


def test_they_are_in_the_loss_and_counted(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"output_dir: {tmp_path / 'out'}\nvalidation_fraction: 0\n")
    run = prepare(read_configuration(["--config", str(tmp_path / "run.yaml"), "--notes", str(notes)]))
    assert run.rows.provenance() == {"human": 1, "prose": 20, "views": 60}
    assert run.tokens.reports["views"].rows == 60 and run.tokens.shares()["views"] > 0
    texts = {run.tokenizer.decode(row["input_ids"], skip_special_tokens=True).strip() for row in run.tokens.train or ()}
    assert "Water is near tree 3, said two." in texts
