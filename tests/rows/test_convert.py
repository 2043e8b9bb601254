"""The rows of each kind: system prompt, adapters, groups."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dlm_trl.notes import DlmError, parse, read
from dlm_trl.rows.convert import KINDS, features
from tests.rows.conftest import NOTES, PROSE_ID, SYNTH, Write, convert

SYSTEM = "system_prompt: Be brief.\n"
TWO_ADAPTERS = "training:\n  adapters:\n    one: {}\n    two: {}\n"
ADAPTED = (
    "Shared prose.\n::prose#two::\nProse for two.\n"
    "::instruction::\n### Q\nPlain?\n### A\nYes.\n"
    "::instruction#one::\n### Q\nOne?\n### A\nYes.\n"
    "::instruction#two::\n### Q\nTwo?\n### A\nYes.\n"
)


def test_the_system_prompt_comes_first(write: Write) -> None:
    document = read(write(extra=SYSTEM))
    system = {"role": "system", "content": "Be brief."}
    question = {"role": "user", "content": "Who wrote it?"}
    answer = {"role": "assistant", "content": "A human."}
    sft = convert(document)[0]
    assert sft["prompt"] == [system, question] and sft["completion"] == [answer]
    assert convert(document, "messages")[0]["messages"] == [system, question, answer]
    preference = convert(document, "preference")[0]
    assert preference["prompt"][0] == system
    assert (preference["chosen"][0]["content"], preference["rejected"][0]["content"]) == ("Hi.", "No.")


def test_every_kind_has_exactly_its_columns(write: Write) -> None:
    document = read(write())
    for kind in KINDS:
        rows = convert(document, kind)
        assert rows and all(row.keys() == features(kind).keys() for row in rows), kind


def test_sections_show_everything(write: Write) -> None:
    rows = convert(read(write(body=NOTES + '::image path="a/b.png" alt="A heron"::\n')), "sections")
    assert [row["kind"] for row in rows] == ["prose", "instruction", "instruction", "preference", "prose", "image"]
    assert {"key": "synth_teacher", "value": "self"} in rows[2]["provenance"]
    assert {"key": "alt", "value": "A heron"} in rows[5]["attributes"] and rows[5]["section_id"] == "9c104bf657d4054a"


def questions(write: Write, adapter: str | None) -> list[str]:
    document = read(write(body=ADAPTED, extra=TWO_ADAPTERS))
    return [row["prompt"][-1]["content"] for row in convert(document, "sft", adapter)]


def test_unsuffixed_pairs_train_the_first_adapter_and_prose_trains_all(write: Write) -> None:
    assert questions(write, "one") == ["Plain?", "One?"]
    assert questions(write, "two") == ["Two?"]
    assert questions(write, None) == ["Plain?", "One?", "Two?"]
    document = read(write(body=ADAPTED, extra=TWO_ADAPTERS))
    assert [row["text"] for row in convert(document, "prose", "one")] == ["Shared prose."]
    assert [row["text"] for row in convert(document, "prose", "two")] == ["Shared prose.", "Prose for two."]
    assert [row["adapter"] for row in convert(document)] == [None, "one", "two"]


def test_an_undeclared_adapter_is_an_error_with_its_line(write: Write) -> None:
    path = write(body="Prose.\n::instruction#three::\n### Q\nq\n### A\na\n", extra=TWO_ADAPTERS)
    line = path.read_text().splitlines().index("::instruction#three::") + 1
    with pytest.raises(DlmError, match=rf"notes\.dlm:{line}:1: .*'three'.*one, two"):
        convert(read(path))


def test_a_pair_is_in_the_group_of_its_prose_whatever_blank_lines_follow(write: Write) -> None:
    pair = "::instruction::\n" + SYNTH.format(id=PROSE_ID) + "### Q\nq\n### A\na\n"
    for blank in ("", "\n", "\n\n"):
        document = read(write(body=f"Prose one.\n{blank}{pair}"))
        prose, synth = convert(document, "prose")[0], convert(document)[0]
        assert prose["source_group"] == synth["source_group"] == PROSE_ID
        assert (prose["section_id"] == PROSE_ID) == (blank == "")


def test_a_pair_may_name_the_prose_by_its_id_with_blank_lines(write: Write) -> None:
    named = convert(read(write(body="Prose one.\n\n::instruction::\n### Q\nq\n### A\na\n")), "prose")[0]["section_id"]
    document = read(write(body="Prose one.\n\n::instruction::\n" + SYNTH.format(id=named) + "### Q\nq\n### A\na\n"))
    assert named != PROSE_ID and convert(document)[0]["source_group"] == PROSE_ID
    closer = read(write(body="Prose one.\n::instruction::\n" + SYNTH.format(id=named) + "### Q\nq\n### A\na\n"))
    assert convert(closer, "prose")[0]["source_group"] == convert(closer)[0]["source_group"] == PROSE_ID


def test_text_in_memory_has_rows_too() -> None:
    text = "---\ndlm_id: 01HRZYQ2X0MB5K4VN7E9DNT5GH\ndlm_version: 15\nbase_model: tiny\n---\nJust prose."
    assert convert(parse(text), "prose")[0]["source_file"] == ""


CASES = Path(__file__).parents[1] / "data" / "dlm_cases.jsonl"
READABLE = [case for line in CASES.read_text("utf-8").splitlines() if (case := json.loads(line))["expect"]["ok"]]


@pytest.mark.parametrize("case", READABLE, ids=[case["name"] for case in READABLE])
def test_the_texts_match_the_reference(case: dict[str, Any]) -> None:
    document = parse(base64.b64decode(case["bytes_b64"]) if case["text"] is None else case["text"])
    expected = case["expect"]
    if not expected["rows_ok"]:
        with pytest.raises(DlmError) as caught:
            [convert(document, kind) for kind in KINDS]
        assert caught.value.kind == expected["rows_error"]["error_kind"]
        return
    found = [(row["section_id"], row["text"]) for row in convert(document, "prose")]
    found += [
        (row["section_id"], *[turn["content"] for turn in row["messages"] if turn["role"] != "system"])
        for row in convert(document, "messages")
    ]
    found += [
        (row["section_id"], row["prompt"][-1]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in convert(document, "preference")
    ]
    assert len(found) == expected["n_rows"]
    listed = [
        (row["_dlm_section_id"], *[turn["content"] for turn in row["messages"]])
        if "messages" in row
        else tuple(row[key] for key in ("_dlm_section_id", "text", "prompt", "chosen", "rejected") if key in row)
        for row in expected.get("rows", [])
    ]
    assert set(listed) <= set(found)
