"""Any bytes are a document that accounts for every one of them, or a DlmError."""

import os
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Document, Section, parse, read
from dlm_trl.notes.document import section_id
from dlm_trl.notes.errors import DlmReadError
from dlm_trl.notes.parser import MAX_BYTES

HEAD = "---\ndlm_id: 01JTRX0000000000000000000A\ndlm_version: 15\nbase_model: tiny\n---\n"
SYNTH = (
    '<!-- dlm-auto-synth: synth_teacher="hf:org/m" synth_strategy="extraction" '
    'synth_at="2026-04-24T10:18:42Z" source_section_id="b6b7d8a2f4b3f9c0" -->'
)
LINES = st.sampled_from(
    [
        *("::prose::", "::instruction::", "::preference::", "::instruction#tone::", '::image path="a.png" alt="x"::'),
        *(" ::prose::", "::prose:: ", "::std::", "::image path=a::", "::", "```", "```py", "  ```", "~~~", "---", ""),
        *("### Q", "### A", " ### A ", "### Q !probe", "### Prompt", "### Chosen", "### Rejected", "### Notes", "  "),
        *(
            SYNTH,
            ' <!-- dlm-auto-harvest: source="" -->',
            '<!-- dlm-auto-harvest: source="" -->',
            "\ufeffé",
            "a\u2028b",
        ),
        *("plain text", "naïve 文字 🙂", "\x0b### Q", "\x85"),
    ]
)
BODIES = st.lists(LINES | st.text(st.characters(codec="utf-8"), max_size=20), max_size=16)
BREAKS = st.sampled_from(["\n", "\n", "\r\n", "\r"])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Files with a valid frontmatter and any body, any mixture of line ends, with and without BOM and final newline."""
    body = "".join(line + draw(BREAKS) for line in draw(BODIES)) + draw(st.sampled_from(["", "end"]))
    return (draw(st.sampled_from(["", "\ufeff"])) + HEAD.replace("\n", draw(BREAKS)) + body).encode()


def parsed(raw: bytes) -> Document | None:
    """The document, or None if the bytes are invalid."""
    try:
        return parse(raw)
    except DlmError as error:
        assert error.kind and error.message and str(error)
        return None


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")) | files())
def test_any_bytes_give_a_document_or_a_dlm_error(raw: bytes) -> None:
    if document := parsed(raw):
        for section in document.sections:
            try:
                section.pairs()
                section.triples()
            except DlmError as error:
                assert error.kind in ("InstructionParseError", "PreferenceParseError") and error.section_line


@given(st.text())
def test_any_string_gives_a_document_or_a_dlm_error(text: str) -> None:
    try:
        parse(text)
    except DlmError as error:
        assert str(error)


@given(files())
@example((HEAD + "\n\n::prose::\n \n::instruction::\nq\n::prose::\n\n").encode())
@example(("\ufeff" + HEAD + "é\r\n::prose::\r\n\r\n\rx").encode())
def test_head_and_spans_are_the_whole_file(raw: bytes) -> None:
    document = parsed(raw)
    if document is None:
        return
    assert document.raw == raw
    assert raw[: document.body_start] + b"".join(raw[slice(*section.span)] for section in document.sections) == raw
    for before, after in zip(document.sections, document.sections[1:], strict=False):
        assert before.span[1] == after.span[0]


@given(files())
def test_spans_and_lines_match_the_sections(raw: bytes) -> None:
    document = parsed(raw)
    if document is None:
        return
    lines = re.split("\r\n|\r|\n", raw.decode().removeprefix("\ufeff"))
    for section in document.sections:
        content = section.content.split("\n")
        assert lines[section.content_line - 1 :][: len(content)] == content or not section.content
        in_span = raw[slice(*section.span)].decode()
        assert re.split("\r\n|\r|\n", in_span)[0] == lines[section.start_line - 1]
        if section.content_line > section.start_line:
            assert lines[section.start_line - 1].startswith(f"::{section.kind}")


@given(files())
def test_line_ends_and_bom_change_nothing_but_the_spans(raw: bytes) -> None:
    plain = re.sub(b"\r\n|\r", b"\n", raw).removeprefix(b"\xef\xbb\xbf")
    document, other = parsed(raw), parsed(plain)
    assert (document is None) == (other is None)
    if document and other:
        assert [s._replace(span=(0, 0)) for s in document.sections] == [s._replace(span=(0, 0)) for s in other.sections]


@given(files())
def test_documents_are_picklable(raw: bytes) -> None:
    document = parsed(raw)
    if document:
        ids = [section.section_id for section in document.sections]
        copy = pickle.loads(pickle.dumps(document))
        assert copy == document and [section.section_id for section in copy.sections] == ids


def test_errors_are_picklable() -> None:
    with pytest.raises(DlmError) as caught:
        parse(HEAD + "::std::\n", Path("notes.dlm"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert str(copy).startswith("notes.dlm:6:1: ")


def test_documents_and_sections_are_immutable() -> None:
    document = parse(HEAD + f"::instruction::\n{SYNTH}\n### Q\nq\n### A\na\n")
    section = document.sections[0]
    for change in (
        lambda: setattr(document, "sections", ()),
        lambda: setattr(section, "content", "x"),
        lambda: setattr(section, "section_id", "x"),
        lambda: setattr(document.frontmatter, "base_model", "x"),
        lambda: section.provenance.update({}),
    ):
        with pytest.raises((AttributeError, ValueError)):
            change()


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("prose", "Prose one.", "421905de9ab75735"),
        ("prose", "Prose one.\n", "7587f60368f4c6e7"),
        ("instruction", "### Q\nq\n### A\na", "876ee20f352437a2"),
        ("prose", "é", "d79a22091924c0cb"),
        ("image", "a/b.png", "9c104bf657d4054a"),
    ],
)
def test_section_ids(kind: str, text: str, expected: str) -> None:
    assert section_id(kind, text) == section_id(kind, "\ufeff" + text.replace("\n", "\r\n")) == expected


@pytest.mark.parametrize("name", ["missing.dlm", ".", "a\0b"])
def test_a_file_that_cannot_be_opened_is_a_dlm_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DlmError) as caught:
        read(tmp_path / name)
    assert caught.value.kind == "DlmReadError" and caught.value.path == tmp_path / name


def test_a_section_knows_its_file_and_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "notes.dlm"
    file.write_text(HEAD + f"::instruction#tone::\n{SYNTH}\n### Q\nq\n### A\na\n", "utf-8")
    (section,) = read(file).sections
    assert isinstance(section, Section)
    assert (section.path, section.adapter, section.auto_synth, section.auto_mined) == (file, "tone", True, False)
    assert section.provenance["source_section_id"] == "b6b7d8a2f4b3f9c0"
    assert [(pair.line, pair.answer_line) for pair in section.pairs()] == [(8, 10)]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_a_pipe_and_a_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.dlm")
    for path in (tmp_path / "pipe.dlm", Path("/dev/zero")):
        with pytest.raises(DlmReadError, match="pipe or a device"):
            read(path)


def test_a_document_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.dlm"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DlmReadError, match="256 MiB"):
        read(path)
