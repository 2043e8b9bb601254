"""Edits are splices: other bytes don't change, nothing is half-written, and concurrent changes aren't lost."""

import itertools
import os
import signal
import stat
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, Document, Section, edit, parse, read

HEAD = "---\n# kept\ndlm_id: 01JTRX0000000000000000000A\ndlm_version: 15\nbase_model:   'tiny'   # odd spacing\n---"
PAIR = "::instruction::\n### Q\nWhat is dew?\n### A\nWater that condenses overnight."

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")

LINES = st.one_of(
    st.sampled_from(
        ["", " ", "Dew forms.", "é\u2028x", "### Q", "### A", "---", "```", "~~~", "\ufeff", "\x0b", "\x00"]
    ),
    st.sampled_from(["::prose::", "::instruction::", "::instruction#a::", "::preference::", '::image path="a.png"::']),
    st.sampled_from([" ::instruction::", '<!-- dlm-auto-harvest: source="x" -->']),
)
CONTENTS = st.lists(LINES.filter(lambda line: not line.startswith(("::", "```", "<!--"))), max_size=4).map("\n".join)
FENCES = st.sampled_from(["::prose::", "::instruction::", "::preference#b::", '::image path="a.png"::'])
NEWLINES = st.sampled_from(["\n", "\r\n", "\r", "mixed"])


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Documents of all shapes: any newline style, with and without BOM, final newline, leading prose, blank prose."""
    lines = [*HEAD.split("\n"), *draw(st.lists(LINES, max_size=12))]
    if lines.count("```") % 2:
        lines.append("```")  # an open code block is invalid, and would rule out most examples
    style = draw(NEWLINES)
    ends = [draw(st.sampled_from(["\n", "\r\n", "\r"])) if style == "mixed" else style for _ in lines]
    ends[-1] = draw(st.sampled_from([ends[-1], ""]))
    text = draw(st.sampled_from(["", "\ufeff"])) + "".join(line + end for line, end in zip(lines, ends, strict=True))
    try:
        return parse(text)
    except DlmError:
        assume(False)
        raise


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A section to append."""
    fence, content = draw(FENCES), draw(CONTENTS)
    if fence == "::prose::" and not content.strip():
        content += "Dew forms."  # blank prose isn't a section
    return f"{fence}\n{content}"


def meanings(sections: tuple[Section, ...]) -> list[tuple[object, ...]]:
    return [(s.kind, s.adapter, s.content, dict(s.provenance), dict(s.attributes)) for s in sections]


@given(documents(), st.lists(texts(), min_size=1, max_size=3))
@example(parse(HEAD), [PAIR])
@example(parse(f"{HEAD}\n\nA line\n::prose::"), [PAIR])
def test_append_then_remove_restores_the_original_bytes(document: Document, sections: list[str]) -> None:
    appended = parse(edit.append_bytes(document, *sections))
    assert appended.raw.startswith(document.raw)
    n = len(document.sections)
    assert meanings(appended.sections[:n]) == meanings(document.sections)
    assert len(appended.sections) == n + len(sections)
    begin = appended.sections[n].start_line
    assert edit.remove_bytes(appended, lambda section: section.start_line >= begin) == document.raw


@given(documents(), st.data())
def test_remove_changes_nothing_else(document: Document, data: st.DataObject) -> None:
    lines = [section.start_line for section in document.sections]
    removed = data.draw(st.sets(st.sampled_from(lines))) if lines else set()
    new = edit.remove_bytes(document, lambda section: section.start_line in removed)
    kept = tuple(section for section in document.sections if section.start_line not in removed)
    assert meanings(parse(new).sections) == meanings(kept)
    spliced = document.raw[: document.body_start] + b"".join(document.raw[slice(*s.span)] for s in kept)
    if document.raw.endswith((b"\n", b"\r")):
        assert new == spliced
    else:
        assert new in (spliced, spliced.removesuffix(b"\n").removesuffix(b"\r"))


@given(documents(), CONTENTS, st.data())
def test_replaced_content_is_the_only_change(document: Document, content: str, data: st.DataObject) -> None:
    assume(document.sections)
    i = data.draw(st.integers(0, len(document.sections) - 1))
    section = document.sections[i]
    assume(section.kind != "prose" or content.strip())
    new = parse(edit.replace_content_bytes(document, section, content))
    assert new.sections[i].content == content
    before, after = document.sections, new.sections
    assert meanings(before[:i] + before[i + 1 :]) == meanings(after[:i] + after[i + 1 :])
    begin, end = section.span
    assert new.raw.startswith(document.raw[:begin])
    assert new.raw.endswith(document.raw[end:])
    assert edit.replace_content_bytes(document, section, section.content) == document.raw


@pytest.mark.parametrize("content", ["", "y", "y\n", "\ny", "\n\ny\n\n"])
@pytest.mark.parametrize(
    "body",
    [
        "\nx",
        "\n\nx",
        "\nx\n",
        "\nx\n\n",
        f"\n{PAIR}",
        "\n::instruction::",
        "\n::instruction::\n",
        "\n::instruction::\n\n",
    ],
)
def test_content_keeps_its_blank_lines_at_the_ends_of_the_file(body: str, content: str) -> None:
    document = parse(HEAD + body)
    if content or document.sections[0].kind == "instruction":
        assert parse(edit.replace_content_bytes(document, document.sections[0], content)).sections[0].content == content


@pytest.mark.parametrize("content", ["\ny", "y\n", "\ny\n"])
@pytest.mark.parametrize(
    "body", ["\rx\n\n", "\n\rx\n\n", "\n::instruction::\rx\n\n", "\n::prose::\rx\n" + "::prose::\ry\r" * 9]
)
def test_content_keeps_its_blank_lines_between_lone_carriage_returns(body: str, content: str) -> None:
    document = parse(HEAD + body)
    assert parse(edit.replace_content_bytes(document, document.sections[0], content)).sections[0].content == content


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_an_appended_section_takes_the_newline_style_of_the_file(newline: str) -> None:
    document = parse(f"{HEAD}\nProse.\n".replace("\n", newline))
    assert edit.append_bytes(document, PAIR) == document.raw + f"{PAIR}\n".replace("\n", newline).encode()


def test_an_append_changes_no_id_before_it() -> None:
    document = parse(f"{HEAD}\n\nProse with a blank line behind it.\n\n")
    assert parse(edit.append_bytes(document, PAIR)).sections[0].section_id == document.sections[0].section_id


@pytest.mark.parametrize(
    "text",
    [
        "no fence",
        " ::prose::\nindented",
        "::prose::\n",
        "::prose::\n\n::prose::\nx",
        "::bogus::\nx",
        "::prose::\n```\nopen",
        "::prose::\nlone \ud800 surrogate",
        "",
    ],
)
def test_a_text_that_is_not_sections_is_refused(text: str) -> None:
    with pytest.raises(DlmError) as caught:
        edit.append_bytes(parse(f"{HEAD}\nProse.\n"), text)
    assert caught.value.kind == "EditError"


@pytest.mark.parametrize("content", ["::instruction::\nx", "```\nx", " \n ", "::oops::", "\udc80"])
def test_content_that_would_become_something_else_is_refused(content: str) -> None:
    document = parse(f"{HEAD}\nProse.\n{PAIR}\n")
    with pytest.raises(DlmError) as caught:
        edit.replace_content_bytes(document, document.sections[0], content)
    assert caught.value.kind == "EditError"


def test_markers_and_fence_survive_new_content() -> None:
    marker = '<!-- dlm-auto-harvest: source="run" -->'
    document = parse(
        f"{HEAD}\n{PAIR.replace('::instruction::', f'::instruction#a::{chr(10)}{marker}')}\n::prose::\nEnd\n"
    )
    new = edit.replace_content_bytes(document, document.sections[0], "### Q\nq\n### A\na")
    assert new.decode() == f"{HEAD}\n::instruction#a::\n{marker}\n### Q\nq\n### A\na\n::prose::\nEnd\n"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.dlm"
    path.write_bytes(f"{HEAD}\n\nProse.\n".encode())
    return path


def test_a_file_keeps_its_mode_its_link_and_one_backup(notes: Path, tmp_path: Path) -> None:
    notes.chmod(0o640)
    link = tmp_path / "elsewhere" / "link.dlm"
    link.parent.mkdir()
    link.symlink_to(notes)
    original = notes.read_bytes()

    assert edit.append(link, PAIR).raw == notes.read_bytes() == original + f"{PAIR}\n".encode()
    assert link.is_symlink()
    assert stat.S_IMODE(notes.stat().st_mode) == 0o640
    backup = tmp_path / "notes.dlm.bak"
    assert backup.read_bytes() == original
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640

    edit.append(notes, PAIR.replace("dew", "hail"))
    edit.remove(notes, lambda section: "hail" in section.content)
    edit.remove(notes, lambda section: section.kind == "instruction")
    assert notes.read_bytes() == original
    assert {p.name for p in tmp_path.iterdir()} == {"notes.dlm", "notes.dlm.bak", ".notes.dlm.lock", "elsewhere"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_edited_by_root_keeps_its_owner(notes: Path) -> None:
    os.chown(notes, 12345, 23456)
    notes.chmod(0o2600)
    edit.append(notes, PAIR)
    for path in (notes, notes.with_name("notes.dlm.bak")):
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o2600)
    lock = notes.with_name(".notes.dlm.lock").stat()
    assert (lock.st_uid, lock.st_gid) == (12345, 23456)


@posix
def test_a_file_whose_owner_cannot_be_kept_is_still_edited(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    assert edit.append(notes, PAIR).raw == notes.read_bytes()


def test_an_edit_that_changes_nothing_writes_nothing(notes: Path) -> None:
    before = notes.stat()
    edit.append(notes)
    edit.remove(notes, lambda section: False)
    edit.replace_content(notes, read(notes).sections[0].section_id, "Prose.")
    assert notes.stat().st_mtime_ns == before.st_mtime_ns and notes.stat().st_ino == before.st_ino
    assert not notes.with_name("notes.dlm.bak").exists()


def test_a_change_made_since_the_read_is_refused(notes: Path) -> None:
    document = read(notes)
    notes.write_bytes(notes.read_bytes() + b"A line of somebody else.\n")
    theirs = notes.read_bytes()
    with pytest.raises(DlmError, match="has changed since") as caught:
        edit.append(document, PAIR)
    assert (caught.value.kind, caught.value.path) == ("DlmWriteError", notes)
    assert notes.read_bytes() == theirs
    assert not notes.with_name("notes.dlm.bak").exists()


def test_an_invalid_document_is_never_written(notes: Path) -> None:
    before = notes.read_bytes()
    with pytest.raises(DlmError):
        edit.write(notes, b"no frontmatter", expected=before)
    assert notes.read_bytes() == before


def test_an_id_must_name_one_section(notes: Path) -> None:
    edit.append(notes, PAIR, PAIR)
    for section_id, words in ((read(notes).sections[1].section_id, "share the id"), ("0" * 16, "No section")):
        with pytest.raises(DlmError, match=words):
            edit.replace_content(notes, section_id, "x")
    edit.replace_content(notes, read(notes).sections[0].section_id, "Other prose.")
    assert read(notes).sections[0].content == "Other prose."


def test_missing_files_and_unwritable_folders_are_one_clear_error(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(DlmError) as caught:
        edit.append(tmp_path / "nothing.dlm", PAIR)
    assert caught.value.kind == "DlmReadError"
    assert not (tmp_path / ".nothing.dlm.lock").exists()
    with pytest.raises(DlmError) as caught:
        edit.append(tmp_path / ("x" * 300), PAIR)  # the system rejects the name
    assert caught.value.kind == "DlmReadError"

    before = notes.read_bytes()
    (tmp_path / ".notes.dlm.tmp").mkdir()  # the temporary file can't be created
    with pytest.raises(DlmError) as caught:
        edit.append(notes, PAIR)
    assert caught.value.kind == "DlmWriteError"
    assert notes.read_bytes() == before


def started(work: Callable[..., None], *arguments: object) -> ForkProcess:
    """Start a real process."""
    process = get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def append_fifteen(path: Path, name: str) -> None:
    for i in range(15):
        edit.append(path, f"::prose::\n{name} {i}")


@posix
def test_two_processes_that_write_at_once_lose_nothing(notes: Path) -> None:
    writers = [started(append_fifteen, notes, name) for name in ("left", "right")]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    contents = [section.content for section in read(notes).sections]
    for name in ("left", "right"):
        assert [c for c in contents if c.startswith(name)] == [f"{name} {i}" for i in range(15)]
    assert len(contents) == 31


def append_and_die(path: Path, at: str, calls: int) -> None:
    """Get killed at the given call of this function of `os`."""
    real, left = getattr(os, at), itertools.count(calls - 1, -1)

    def kill_or_call(*arguments: object) -> object:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(os, at, kill_or_call)
    edit.append(path, "::prose::\nnever whole")


@posix
@pytest.mark.parametrize(("at", "calls"), [("fsync", 1), ("replace", 1), ("fsync", 3), ("replace", 2)])
def test_a_killed_process_leaves_the_file_complete_and_unlocked(notes: Path, at: str, calls: int) -> None:
    before = notes.read_bytes()
    writer = started(append_and_die, notes, at, calls)
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert notes.read_bytes() == before
    edit.append(notes, PAIR)
    assert notes.read_bytes() == before + f"{PAIR}\n".encode()
    assert notes.with_name("notes.dlm.bak").read_bytes() == before
    assert not list(notes.parent.glob(".*.tmp"))


def append_for_ever(path: Path) -> None:
    for i in itertools.count():
        edit.append(path, f"::prose::\n{i}")


@posix
def test_a_kill_at_any_moment_leaves_a_complete_document(notes: Path) -> None:
    for delay in (0.01, 0.023, 0.031, 0.057):
        writer = started(append_for_ever, notes)
        time.sleep(delay)
        writer.kill()
        writer.join()
        assert notes.read_bytes().endswith(f"{read(notes).sections[-1].content}\n".encode())
    edit.append(notes, PAIR)
    assert read(notes).sections[-1].kind == "instruction"
