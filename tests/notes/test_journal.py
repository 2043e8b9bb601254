"""A journal keeps whole lines, whatever happens while one is written."""

import json
from pathlib import Path

import pytest

from dlm_trl.notes import DlmError
from dlm_trl.notes.journal import append, whole_lines


def test_a_torn_line_is_skipped_and_then_replaced(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert list(whole_lines(path)) == []
    assert append(path, [{"n": 1}, {"n": "é\u2028"}]) == path.stat().st_size
    path.write_bytes(path.read_bytes() + b'{"n": 3')
    assert [json.loads(line)["n"] for line in whole_lines(path)] == [1, "é\u2028"]
    assert append(path, [{"n": 4}], sync=False) == path.stat().st_size
    assert [json.loads(line)["n"] for line in whole_lines(path)] == [1, "é\u2028", 4]


def test_text_is_escaped_unless_asked_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    append(path, [{"text": "\ud83d é"}])
    append(path, [{"text": "é"}], ensure_ascii=False)
    assert path.read_bytes() == b'{"text": "\\ud83d \\u00e9"}\n{"text": "\xc3\xa9"}\n'


def test_a_file_that_cannot_be_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DlmError, match="cannot be written") as caught:
        append(tmp_path, [{"n": 1}])
    assert (caught.value.kind, caught.value.path) == ("DlmWriteError", tmp_path)
