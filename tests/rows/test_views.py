"""The store of prose views, which of them are trained, and their rows."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes import parse, read
from dlm_trl.notes.errors import StagingError
from dlm_trl.notes.sentences import sentences
from dlm_trl.rows.views import ProseView, add_views, live_views, read_views, remove_views, view_rows, views_path
from tests.rows.conftest import HEADER

HEAD = HEADER.format(extra="")
PROSE = "Alder is a tree that grows beside water. Birch turns its cut bark red within 3 days.\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document with an empty store."""
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    file = tmp_path / "notes.dlm"
    file.write_text(f"{HEAD}{PROSE}", encoding="utf-8")
    views_path(read(file)).parent.mkdir(parents=True)
    return file


def view(*sentences: str, text: str = "Alder likes wet ground.", kind: str = "rewrite") -> ProseView:
    return ProseView(
        section_id="0" * 16, line=1, kind=kind, text=text, facts=sentences, teacher="hf:t", at="2026-01-01T00:00:00Z",
        request_key="k",
    )  # fmt: skip


SENTENCES = [f"Tree number {name} grows beside water." for name in ("one", "two", "three", "four")]


@given(
    sections=st.lists(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=3), min_size=1, max_size=3),
    about=st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=3, unique=True),
)
def test_a_view_is_trained_while_its_sentences_are_in_one_section(
    sections: Sequence[Sequence[str]], about: Sequence[str]
) -> None:
    document = parse(HEAD + "\n::prose::\n".join(" ".join(section) + "\n" for section in sections))
    live = live_views(document, [view(*about)])
    having = [section for section in document.sections if all(sentence in section.content for sentence in about)]
    assert [one.section_id for one in live] == [having[0].section_id] if having else live == []
    raw = document.raw.decode().split("\n")
    assert all(about[0] in raw[one.line - 1] for one in live)


def test_the_store_keeps_each_text_once_and_names_a_damaged_line(path: Path) -> None:
    document = read(path)
    first, second = view("A."), view("B.", text="Another text.")
    assert add_views(document, [first, first, second]) == [first, second]
    assert add_views(document, [second]) == [] and read_views(document) == [first, second]
    with views_path(document).open("a") as file:
        file.write('{"section_id": 3}\n')
    with pytest.raises(StagingError, match=r"views\.jsonl:3"):
        read_views(document)


def test_rows_have_the_weight_and_the_group_of_their_prose(path: Path) -> None:
    document = read(path)
    first, second = sentences(PROSE)
    texts = [f"Alder wood number {i} is red." for i in range(40)]
    add_views(
        document, [*(view(first, second, text=text) for text in texts), view("A sentence that is gone.", text="x")]
    )
    (section,) = document.sections
    ids = {section.section_id}
    rows = view_rows(document, 1.0, ids, seed=1)
    assert rows is not None and rows["text"] == texts
    assert set(rows["source_group"]) == {section.bare_id} and set(rows["line"]) == {section.content_line}
    assert len(view_rows(document, 2.0, ids, seed=1) or ()) == 80
    assert 10 < len(view_rows(document, 0.5, ids, seed=1) or ()) < 30
    assert view_rows(document, 1.0, set(), seed=1) is None


def test_one_teachers_views_are_removed(path: Path) -> None:
    document = read(path)
    mine, other = view("A."), view("A.", text="Other.").model_copy(update={"teacher": "hf:other"})
    add_views(document, [mine, other])
    assert remove_views(document, "hf:t") == 1 and read_views(document) == [other]
    assert remove_views(document) == 1 and read_views(document) == [] and remove_views(document) == 0
