"""Calibration data: rows as training renders them, with a part held out."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from dlm_trl.export.calibration import LENGTH, MIN_TOKENS, read_calibration, read_rows
from dlm_trl.notes import DlmError

WORDS = ["dough", "starter", "yeast", "flour", "water", "salt", "gluten", "crumb", "crust", "oven"]
NOTES = """---
dlm_id: 01K9BREADW1THS0VRD0VGH2T3R
dlm_version: 15
base_model: tiny
system_prompt: null
---
A starter is a mix of flour and water.

::instruction::
### Q
What is a starter?
### A
A mix of flour and water.
"""


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"messages": conversation(f"What is number {n}?", f"It is the number {n * n}.")} for n in range(count)]


def holds(ids: list[int], part: list[int]) -> bool:
    return f" {' '.join(map(str, part))} " in f" {' '.join(map(str, ids))} "


@settings(max_examples=25)  # each one tokenises the general text
@given(st.sets(st.lists(st.sampled_from(WORDS), min_size=3, max_size=9).map(tuple), min_size=2, max_size=12), st.data())
def test_held_out_rows_are_in_no_block(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, texts: set[tuple[str, ...]], data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 9))
    rows = [{"text": " ".join(text)} for text in sorted(texts)]
    found = read_calibration(write(tmp_path / "rows.jsonl", rows), tokenizer, seed=seed)
    ids = [token for block in found.blocks for token in block]
    assert found.held_out_rows == len(found.held_out_notes) >= 1
    assert found.rows + found.held_out_rows == len(rows)
    assert not any(holds(ids, [*piece, tokenizer.bos_token_id]) for piece in found.held_out_notes)
    assert not any(holds(ids, piece[-20:]) for piece in found.held_out_general)
    assert {len(block) for block in found.blocks} == {LENGTH}
    assert found.tokens >= MIN_TOKENS - LENGTH


def test_the_same_call_gives_the_same_blocks_and_another_seed_others(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(30))
    first, again, other = (read_calibration(file, tokenizer, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.blocks != other.blocks and first.held_out_notes != other.held_out_notes


def test_a_new_row_moves_few_others(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    before = read_calibration(write(tmp_path / "rows.jsonl", pairs(30)), tokenizer).held_out_notes
    after = read_calibration(write(tmp_path / "rows.jsonl", pairs(31)), tokenizer).held_out_notes
    assert len([piece for piece in before if piece not in after]) <= 1


def test_every_kind_of_row_gives_the_ids_of_training(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    whole = [row["messages"] for row in pairs(3)]
    shapes = [
        [{"messages": messages} for messages in whole],
        [{"prompt": messages[:1], "completion": messages[1:]} for messages in whole],
    ]
    found = [read_calibration(write(tmp_path / "rows.jsonl", rows), tokenizer) for rows in shapes]
    assert found[0] == found[1]
    ids = [token for block in found[0].blocks for token in block]
    rendered = [tokenizer.apply_chat_template(messages, return_dict=False) for messages in whole]
    assert sum(holds(ids, row) for row in rendered) == 2
    assert found[0].held_out_notes == [row for row in rendered if not holds(ids, row)]

    texts = write(tmp_path / "rows.jsonl", [{"prompt": "Salt ", "completion": "slows yeast."}, {"text": "Water."}])
    found = read_calibration(texts, tokenizer)
    ids = [token for block in found.blocks for token in block] + found.held_out_notes[0]
    for text in ("Salt slows yeast.", "Water."):
        assert holds(ids, [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]])


def test_rows_of_one_group_stay_together(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows = [row | {"source_group": str(number // 5)} for number, row in enumerate(pairs(50))]
    found = read_calibration(write(tmp_path / "rows.jsonl", rows), tokenizer)
    assert found.held_out_rows == 10
    shown = [tokenizer.decode(piece) for piece in found.held_out_notes]
    held_out = [number for number in range(50) if any(f"What is number {number}?" in text for text in shown)]
    assert len(held_out) == 10 and len({number // 5 for number in held_out}) == 2


def test_samples_limit_the_blocks_and_most_of_them_are_notes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    found = read_calibration(write(tmp_path / "rows.jsonl", pairs(1000)), tokenizer, samples=8)
    assert len(found.blocks) == 8 and found.tokens == 8 * LENGTH
    assert found.general_tokens == found.tokens // 4
    assert found.rows < 800  # reading stops once there is enough
    assert found.held_out_rows == 200


def test_few_rows_are_all_used_and_counted(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    found = read_calibration(write(tmp_path / "rows.jsonl", pairs(1)), tokenizer)
    assert (found.rows, found.held_out_rows, found.held_out_notes) == (1, 0, [])
    assert str(found).startswith("1 rows, 2 blocks of 512 tokens (") and "held out: 0 rows" in str(found)
    two = read_calibration(write(tmp_path / "rows.jsonl", pairs(2)), tokenizer)
    assert (two.rows, two.held_out_rows) == (1, 1)


def test_a_document_gives_pairs_and_prose(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "notes.dlm").write_text(NOTES, encoding="utf-8")
    found = read_calibration(tmp_path / "notes.dlm", tokenizer)
    assert found.rows + found.held_out_rows == 2
    ids = [token for block in found.blocks for token in block] + found.held_out_notes[0]
    pair = conversation("What is a starter?", "A mix of flour and water.")
    assert holds(ids, tokenizer.apply_chat_template(pair, return_dict=False))
    assert holds(ids, tokenizer("A starter is a mix of flour and water.", add_special_tokens=False)["input_ids"])


def test_the_log_of_an_online_run_gives_rows_except_rejected_ones(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Which? ", "target": "A", "rejected": None},
        {"prompt": None, "target": None, "rejected": "empty"},
        {"prompt": [{"role": "user", "content": "Which?"}], "target": "B"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_rows(tmp_path / "rows.jsonl")
    assert [row.content for row in found] == ["Which? A", [*rows[2]["prompt"], {"role": "assistant", "content": "B"}]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting"),
        ("[1]", "[1] is not an object"),
        ("7", "7 is not an object"),
        ('{"question": "?"}', "'prompt' is missing"),
        ('{"prompt": "a"}', "'completion' is missing"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', "'completion' is missing"),
        ('{"prompt": "a", "completion": [{"role": "user", "content": "b"}]}', "not both texts"),
        ('{"messages": []}', "[] is not a conversation"),
        ('{"messages": [{"role": "user"}]}', "'content' is missing"),
        ('{"messages": [{"role": "user", "content": null}]}', "None is not a text"),
        ('{"text": ["a"]}', "['a'] is not a text"),
        ('{"text": " "}', "is not a text"),
        ('{"text": "\\ud800"}', "surrogates not allowed"),
    ],
)
def test_an_invalid_line_is_reported(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"text": "Salt slows yeast."}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(DlmError) as caught:
        read_calibration(file, tokenizer)
    assert caught.value.kind == "CalibrationError"
    assert message in str(caught.value) and str(caught.value).startswith(f"{file}:3:")


def test_invalid_utf_8_is_reported(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(DlmError, match=r"rows\.jsonl:1: .*utf-8"):
        read_calibration(tmp_path / "rows.jsonl", tokenizer)


def test_a_source_without_rows_is_rejected(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "rows.csv").write_text("text\nSalt\n")
    for name, message in (("empty.jsonl", "no row"), ("rows.csv", r"\.jsonl file"), ("none.jsonl", "doesn't exist")):
        with pytest.raises(DlmError, match=message):
            read_calibration(tmp_path / name, tokenizer)
    with pytest.raises(DlmError, match="samples is 0"):
        read_calibration(write(tmp_path / "rows.jsonl", pairs(2)), tokenizer, samples=0)


def test_conversations_need_a_chat_template_that_accepts_them(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(2))
    for template, message in (
        (None, "has no chat template"),
        ("{{ raise_exception('no user') }}", "refuses .* no user"),
    ):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        with pytest.raises(DlmError, match=rf"rows\.jsonl:[12]: .*{message}"):
            read_calibration(file, tokenizer)
