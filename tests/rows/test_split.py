"""Rows about the same text stay on one side, also when the notes grow."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.notes import DlmError, parse
from dlm_trl.rows.convert import features
from dlm_trl.rows.split import apply_weights, in_validation, split
from tests.rows.conftest import HEADER, SYNTH, convert


def rows(groups: list[str], weights: list[float] | None = None) -> Dataset:
    count = len(groups)
    return Dataset.from_dict(
        {"section_id": groups, "source_group": groups, "weight": weights or [1.0] * count, "index": range(count)}
    )


groups = st.lists(st.sampled_from([f"{i:016x}" for i in range(40)]), min_size=1, max_size=60)
QUICK = settings(max_examples=40, deadline=None)


@QUICK
@given(groups, st.floats(0, 0.99), st.integers(0, 5))
def test_every_row_is_on_one_side_and_groups_are_whole(groups: list[str], fraction: float, seed: int) -> None:
    parts = split(rows(groups), fraction, seed)
    train, validation = parts["train"], parts["validation"]
    assert sorted([*train["index"], *validation["index"]]) == list(range(len(groups)))
    assert list(train["index"]) == sorted(train["index"])
    assert not set(train["source_group"]) & set(validation["source_group"])
    assert all(in_validation(group, fraction, seed) for group in validation["source_group"])


@QUICK
@given(groups, groups, st.integers(0, 5))
def test_sides_stay_when_sections_are_added(first: list[str], more: list[str], seed: int) -> None:
    before = split(rows(first), 0.3, seed)
    after = split(rows(more + first), 0.3, seed)
    assert set(before["validation"]["source_group"]) <= set(after["validation"]["source_group"])
    assert set(before["train"]["source_group"]) <= set(after["train"]["source_group"])


def test_the_fraction_is_met_over_many_groups() -> None:
    parts = split(rows([f"{i:016x}" for i in range(4000)]), 0.1)
    assert 0.08 < len(parts["validation"]) / 4000 < 0.12


def document_rows(body: str, kind: str) -> Dataset:
    return Dataset.from_list(convert(parse(HEADER.format(extra="") + body), kind), features=features(kind))


def test_prose_and_its_pairs_agree_when_loaded_separately() -> None:
    body = ""
    for i in range(60):
        prose_id = hashlib.sha256(f"prose\nParagraph {i}.".encode()).hexdigest()[:16]
        pair = "::instruction::\n" + SYNTH.format(id=prose_id) + f"### Q\nq{i}\n### A\na\n"
        body += f"::prose::\nParagraph {i}.\n" + "\n" * (i % 3) + pair * 2
    prose, pairs = document_rows(body, "prose"), document_rows(body, "sft_synth")
    held_prose = split(prose, 0.3)["validation"]
    held_pairs = split(pairs, 0.3)["validation"]
    assert len(pairs) == 120 and 0 < len(held_prose) < 60
    numbers = {text.strip().removeprefix("Paragraph ").rstrip(".") for text in held_prose["text"]}
    assert {prompt[0]["content"].removeprefix("q") for prompt in held_pairs["prompt"]} == numbers


def test_the_reference_split() -> None:
    parts = split(rows(["876ee20f352437a2"] * 60), seed=42, method="reference")
    assert list(parts["validation"]["index"]) == [0, 3, 5, 11, 16, 25, 28, 34, 41, 55]
    other = rows(["other"] * 3)
    mixed = concatenate_datasets([other, rows(["876ee20f352437a2"] * 4)])
    held = split(mixed, seed=42, method="reference")["validation"].filter(lambda row: row["section_id"] != "other")
    assert list(held["index"]) == [0, 3], "the index counts within the section"


@QUICK
@given(st.lists(st.floats(0, 4), min_size=1, max_size=20), st.integers(0, 3))
def test_weights_are_copies_within_one_side(weights: list[float], seed: int) -> None:
    groups = [f"{i:016x}" for i in range(len(weights))]
    parts = split(rows(groups, weights), 0.3, seed)
    for index, weight in enumerate(weights):
        counts = [list(part["index"]).count(index) for part in parts.values()]
        assert min(counts) == 0 and int(weight) <= max(counts) <= int(weight) + (weight % 1 > 0)


def test_a_fraction_of_a_weight_is_decided_by_section() -> None:
    section = "876ee20f352437a2"
    drawn = int.from_bytes(hashlib.blake2b(f"42:{section}".encode(), digest_size=8).digest(), "big") / 2**64
    for weight, copies in [(1 + drawn * 0.99, 1), (1 + drawn + 0.01, 2), (0.0, 0), (3.0, 3)]:
        assert len(apply_weights(rows([section], [weight]))) == copies


def test_an_empty_split_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    parts = split(rows(["a"]), 0.0)
    assert len(parts["train"]) == 1 and len(parts["validation"]) == 0 and not caplog.text
    split(rows(["a"]), 0.1)
    assert "The validation split is empty" in caplog.text or "The train split is empty" in caplog.text


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (rows(["a"]), {"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        (rows(["a"]), {"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        (rows(["a"]), {"method": "random"}, "Unknown split method 'random'"),
        (Dataset.from_dict({"text": ["a"]}), {}, "the columns source_group, section_id, weight"),
    ],
)
def test_misuse_is_one_clear_error(dataset: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DlmError, match=message):
        split(dataset, **options)
