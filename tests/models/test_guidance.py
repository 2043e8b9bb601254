"""Generation that keeps to a JSON schema: a random model writes what the schema allows, whatever it prefers."""

import json
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.generate import Generated, generate_batches
from dlm_trl.models.guidance import can_guide

SCHEMA = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "question": {"enum": ["Who?", "Where?"]},
                    "answer": {"enum": ["Ann", "Here", "I don't"]},
                },
                "required": ["question", "answer"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": 2,
        }
    },
    "required": ["pairs"],
    "additionalProperties": False,
}
PROMPTS = [[5, 6, 7], [5], [9, 8, 7, 6, 5, 4], [11, 12]]


def texts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any) -> list[Generated]:
    batches = generate_batches(model, tokenizer, PROMPTS, 200, schema=SCHEMA, **options)
    return sorted(row for batch in batches for row in batch)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_every_text_is_complete_json_of_the_schema(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, temperature: float
) -> None:
    assert can_guide(tokenizer)
    found = texts(model, tokenizer, temperature=temperature)
    for row in found:
        pairs = json.loads(row.text)["pairs"]  # nothing follows the JSON
        assert 1 <= len(pairs) <= 2 and all(set(pair) == {"question", "answer"} for pair in pairs)
        assert row.new_tokens < 200
    if temperature:
        assert len({row.text for row in found}) > 1


def test_a_row_is_the_same_alone_and_in_a_batch_that_others_leave(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    together = texts(model, tokenizer, temperature=3.0, seed=[1, 2, 3, 4])
    assert len({row.new_tokens for row in together}) > 1  # they end at different times
    assert together == texts(model, tokenizer, temperature=3.0, seed=[1, 2, 3, 4], token_budget=1)


def test_a_text_that_is_cut_off_keeps_to_the_schema_as_far_as_it_goes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    ((row, *_),) = generate_batches(model, tokenizer, PROMPTS[:1], 5, schema=SCHEMA)
    assert row.new_tokens == 5 and '{"pairs": [{"question": '.startswith(row.text)
