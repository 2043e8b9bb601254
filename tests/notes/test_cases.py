"""The format's test cases: our parser and rows agree with the reference implementation."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dlm_trl.notes import DlmError, Document, Section, read

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "dlm_cases.jsonl").read_text("utf-8").splitlines()
]


def expected_content(text: str) -> str | int:
    """The content, or the length of one abbreviated as `<200000 chars>`."""
    return int(text.split()[0][1:]) if text.startswith("<") and text.endswith(" chars>") else text


def rows(document: Document) -> list[tuple[str, dict[str, Any]]]:
    """The reference's rows: prose text, messages of a pair, or a preference triple."""

    def of(section: Section) -> list[dict[str, Any]]:
        if section.kind == "prose":
            return [{"text": section.content.strip()}]
        if section.kind == "preference":
            return [{"prompt": t.prompt, "chosen": t.chosen, "rejected": t.rejected} for t in section.triples()]
        return [
            {"messages": [{"role": "user", "content": p.question}, {"role": "assistant", "content": p.answer}]}
            for p in section.pairs()
        ]

    return [(section.section_id, row) for section in document.sections for row in of(section)]


def facts(section: Section) -> dict[str, Any]:
    """A section with the names used in the cases."""
    provenance = {"harvest_source" if k == "source" else k: v for k, v in section.provenance.items()}
    return {
        "type": section.kind,
        "adapter": section.adapter,
        "start_line": section.start_line,
        "section_id": section.section_id,
        "content": section.content,
        "auto_synth": section.auto_synth,
        "auto_mined": section.auto_mined,
        "auto_harvest": section.auto_harvest,
        **provenance,
        **{f"media_{k}": v for k, v in section.attributes.items()},
    }


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    raw = base64.b64decode(case["bytes_b64"]) if case["text"] is None else case["text"].encode()
    file = tmp_path / "case.dlm"
    file.write_bytes(raw)
    expect = case["expect"]

    if not expect["ok"]:
        with pytest.raises(DlmError) as caught:
            read(file)
        error = caught.value
        assert (error.kind, error.line, error.column) == (expect["error_kind"], expect["line"], expect["col"])
        assert error.path == file and error.message and error.hint
        return

    document = read(file)
    assert document.frontmatter.model_dump(exclude_unset=True) == expect["frontmatter_set"]
    assert document.raw == raw == raw[: document.body_start] + b"".join(raw[slice(*s.span)] for s in document.sections)
    assert len(document.sections) == expect.get("n_sections", len(expect["sections"]))
    for section, wanted in zip(document.sections, expect["sections"], strict=False):
        content = expected_content(wanted["content"])
        seen = facts(section)
        assert seen == wanted | {"content": section.content}
        assert section.content == content if isinstance(content, str) else len(section.content) == content

    if not expect["rows_ok"]:
        with pytest.raises(DlmError) as caught:
            rows(document)
        error, wanted = caught.value, expect["rows_error"]
        assert (error.kind, error.section_line) == (wanted["error_kind"], wanted["section_line"])
        section = next(s for s in document.sections if s.section_id == wanted["section_id"])
        assert error.line == section.content_line - 1 + wanted["section_line"]
        return

    seen_rows = rows(document)
    assert len(seen_rows) == expect["n_rows"]
    for (section_id, row), wanted in zip(seen_rows, expect.get("rows", []), strict=False):
        assert section_id == wanted.pop("_dlm_section_id")
        assert row == wanted
