"""Rows of a step: independent of the batch, drawn again when rejected, checked, and recorded as JSON."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from dlm_trl.models.generate import generate
from dlm_trl.models.tokenize import tokenize
from dlm_trl.notes import DlmError
from dlm_trl.online.authors import AskedTeacher, FrozenBase
from dlm_trl.online.encode import Encoded, encode, rows_of
from dlm_trl.online.rows import Draft, write_rows
from dlm_trl.tasks.protocol import Example, Reject
from dlm_trl.teachers.local import LocalTeacher
from tests.tasks.letters import LABELS, CheckedLetters, Letters, SaidLetters


@pytest.fixture
def adapted(model) -> PeftModel:
    return get_peft_model(model, LoraConfig(target_modules="all-linear", lora_dropout=0.5)).train()


@pytest.fixture
def author(adapted: PeftModel, tokenizer) -> FrozenBase:
    return FrozenBase(adapted, tokenizer)


def rows(drafts: list[Draft]) -> dict[int, Draft]:
    return {draft.index: draft for draft in drafts if draft.encoded}


@pytest.mark.parametrize("kind", [Letters, CheckedLetters, SaidLetters])
def test_a_row_is_the_same_alone_and_in_a_batch(author: FrozenBase, tokenizer, kind: type[Letters]) -> None:
    task = kind(rejecting="half")
    write = partial(write_rows, task, author, partial(encode, tokenizer=tokenizer), seed=1, step=7, attempts=3)
    together = write(indices=range(12)).drafts
    assert len({draft.generated for draft in together}) > 8
    apart = write(indices=range(6, 12)).drafts + write(indices=range(6)).drafts
    assert {(d.index, d.attempt): d for d in apart} == {(d.index, d.attempt): d for d in together}
    other = write_rows(task, author, partial(encode, tokenizer=tokenizer), seed=1, step=8, indices=range(12))
    assert not {d.generated for d in other.drafts} & {d.generated for d in together}


def test_a_rejected_row_is_drawn_again(author: FrozenBase, tokenizer) -> None:
    write = partial(write_rows, author=author, encode=partial(encode, tokenizer=tokenizer), seed=0, step=0)
    drafts = write(Letters(rejecting="half"), indices=range(16), attempts=3).drafts
    for index in range(16):
        tries = [draft for draft in drafts if draft.index == index]
        assert [draft.attempt for draft in tries] == list(range(len(tries)))
        assert all(draft.outcome == Reject("odd") for draft in tries[:-1])
        assert len(tries) == 3 or tries[-1].encoded
        assert len({draft.generated for draft in tries}) == len(tries)
    assert 16 < len(drafts) < 48
    written = write(Letters(rejecting="all"), indices=range(4), attempts=2)
    assert len(written.drafts) == 8
    assert not rows(written.drafts)
    assert written.new_tokens >= len(written.drafts)


def test_only_confirmed_rows_are_kept(author: FrozenBase, tokenizer) -> None:
    task = CheckedLetters()
    drafts = write_rows(
        task, author, partial(encode, tokenizer=tokenizer), seed=0, step=0, indices=range(16), attempts=1
    ).drafts
    kept = rows(drafts)
    base = author.model.get_base_model()
    with author.model.disable_adapter():
        for draft in drafts:
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": f"{draft.generated}?"}], add_generation_prompt=True, return_dict=False
            )
            (reply,) = generate(base, tokenizer, [prompt], 12, stop=task.stop)
            assert (draft.index in kept) == (len(reply) % 2 == 0)
            assert draft.index in kept or draft.outcome == Reject("not confirmed")
    assert 0 < len(kept) < 16


def test_a_task_without_generation_needs_no_author(tokenizer) -> None:
    drafts = write_rows(
        Letters(max_new_tokens=0),
        AskedTeacher(None),
        partial(encode, tokenizer=tokenizer),
        seed=0,
        step=0,
        indices=range(3),
    ).drafts
    assert [draft.generated for draft in drafts] == [""] * 3
    assert len(rows(drafts)) == 3


def test_a_teachers_rows_do_not_depend_on_the_batch(model, tokenizer) -> None:
    author = AskedTeacher(LocalTeacher(model, tokenizer, "hf:random", "0", context=None))
    write = partial(write_rows, Letters(), author, partial(encode, tokenizer=tokenizer), seed=0, step=0)
    written = write(indices=range(6))
    assert written.new_tokens >= 6
    assert write(indices=[4]).drafts == [draft for draft in written.drafts if draft.index == 4]
    assert all("q" not in draft.generated and "\n" not in draft.generated for draft in written.drafts)


def test_failed_replies_are_rejected(model, tokenizer) -> None:
    author = AskedTeacher(LocalTeacher(model, tokenizer, "hf:random", "0", context=20))  # too short for the prompts
    drafts = write_rows(
        Letters(), author, partial(encode, tokenizer=tokenizer), seed=0, step=0, indices=[0], attempts=2
    ).drafts
    assert [draft.outcome for draft in drafts] == [Reject("no reply")] * 2


def test_records_of_different_tasks_form_one_dataset(author: FrozenBase, tokenizer, tmp_path: Path) -> None:
    lines = []
    for step, task in enumerate([Letters(rejecting="half"), Letters(choices=False)]):
        written = write_rows(task, author, partial(encode, tokenizer=tokenizer), seed=0, step=step, indices=range(6))
        lines += [json.dumps(draft.record(task, step)) for draft in written.drafts]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    dataset = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path))
    trained = dataset.filter(lambda row: row["input_ids"] is not None)
    assert 0 < len(trained) < len(dataset) == len(lines)
    assert set(dataset.filter(lambda row: row["input_ids"] is None)["rejected"]) == {"odd"}
    row = trained[0]
    assert json.loads(row["facts"])["letter"] == row["target"]
    assert [label for label in row["labels"] if label != -100] == tokenizer(row["target"])["input_ids"]


def test_a_target_follows_its_text(tokenizer) -> None:
    encoded = encode(Example("What lifts", " the dough"), tokenizer)
    ids = tokenizer("What lifts")["input_ids"] + tokenizer(" the dough")["input_ids"]
    assert encoded.input_ids == ids
    assert encoded.labels == [-100] * len(tokenizer("What lifts")["input_ids"]) + tokenizer(" the dough")["input_ids"]
    assert encode(Example("What lifts", " the dough"), tokenizer, max_length=len(ids)) == encoded
    assert encode(Example("What lifts", " the dough"), tokenizer, max_length=len(ids) - 1) == Reject("too long")


def test_messages_are_encoded_like_dataset_rows(tokenizer) -> None:
    prompt = [{"role": "user", "content": "What lifts the dough?"}]
    encoded = encode(Example(prompt, "The gas."), tokenizer)
    pair = {"prompt": [prompt], "completion": [[{"role": "assistant", "content": "The gas."}]]}
    pair |= {"file": ["a.dlm"], "line": [1]}
    (expected,) = tokenize(Dataset.from_dict(pair), tokenizer, max_length=512)[0]
    assert (encoded.input_ids, encoded.labels) == (expected["input_ids"], expected["labels"])


def test_choices_are_tokens_if_possible(tokenizer) -> None:
    assert encode(Example("A or B?", "B", LABELS), tokenizer).choices == tuple(tokenizer("ABCDE")["input_ids"])
    assert encode(Example("Which?", "the baker", ("the baker", "yeast")), tokenizer).choices == ()
    with pytest.raises(DlmError, match="one token each"):
        encode(Example("Which?", "the baker", ("the baker", "yeast"), loss="labels"), tokenizer)


def test_messages_without_a_template_are_refused(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(DlmError, match="no chat template"):
        encode(Example([{"role": "user", "content": "?"}], "A"), tokenizer)


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("multiple", [None, 16])
def test_a_batch_is_taken_apart_into_its_rows(padding_free: bool, multiple: int | None) -> None:
    rows = [Encoded([0, 7, 0, 8], 2).row, Encoded([5, 6], 1).row, Encoded([1, 0, 0, 0, 0, 3], 3).row]
    collator = DataCollatorForLanguageModeling(0, padding_free=padding_free, pad_to_multiple_of=multiple)
    assert rows_of(collator(rows)) == rows
