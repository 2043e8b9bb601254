"""Scores equal their definition, independently of batches."""

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.generate import generate
from dlm_trl.models.score import log_probs

PROMPTS = ["What lifts the dough?", "A", "Who bakes?"]
COMPLETIONS = [" The gas that the yeast makes.", " starter", " The baker bakes it early."]


@pytest.mark.parametrize("budget", [1, 10_000])
def test_a_score_is_the_sum_of_the_completions_log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: int
) -> None:
    scores = log_probs(model, tokenizer, PROMPTS, COMPLETIONS, token_budget=budget)
    for prompt, completion, score in zip(PROMPTS, COMPLETIONS, scores, strict=True):
        before, after = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
        with torch.no_grad():
            table = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
        expected = sum(table[len(before) + k - 1, token].item() for k, token in enumerate(after))
        assert score.tokens == len(after)
        assert score.total == pytest.approx(expected, rel=1e-4)
        assert score.mean == pytest.approx(expected / len(after), rel=1e-4)


def test_a_common_prefix_is_computed_once(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["Yeast makes gas. " * 12, "A loaf has a crust. " * 9]
    prompts = [text + question for text in texts for question in ("What?", "Who bakes the bread?", "And then?", "Why?")]
    completions = ["gas", "the baker does it", "It rises.", "so"] * 2
    seen: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with hook:
        found = log_probs(model, tokenizer, prompts, completions)
    alone = [log_probs(model, tokenizer, [p], [c])[0] for p, c in zip(prompts, completions, strict=True)]
    assert [score.total for score in found] == pytest.approx([score.total for score in alone], rel=1e-4)
    whole = sum(len(tokenizer(p)["input_ids"]) for p in prompts)
    assert len(seen) == 4 and sum(seen) < whole / 2


def test_a_long_common_beginning_limits_the_rows_of_a_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row has a copy of the cache of the beginning, which can be larger than all the rest."""
    text = "Yeast makes gas. " * 20
    prompts, completions = [f"{text}What is {n}?" for n in range(12)], [f"It is {n}." for n in range(12)]
    batches: list[int] = []
    whole = log_probs(model, tokenizer, prompts, completions, advance=batches.append)
    assert batches == [12]
    longest = max(len(tokenizer(p + c)["input_ids"]) for p, c in zip(prompts, completions, strict=True))
    monkeypatch.setattr("dlm_trl.models.score.CACHE_BUDGET", 4 * longest + 1)
    batches.clear()
    found = log_probs(model, tokenizer, prompts, completions, advance=batches.append)
    assert sum(batches) == 12 and max(batches) <= 4
    assert [one.total for one in found] == pytest.approx([one.total for one in whole], rel=1e-4)


def test_no_logits_are_computed_inside_a_prompt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda head, inputs, logits: seen.append(logits.shape[:2].numel()))
    prompt = tokenizer(PROMPTS[0] * 30)["input_ids"]
    (score,) = log_probs(model, tokenizer, [prompt], [COMPLETIONS[0]])
    assert len(prompt) > 200 and seen == [score.tokens + 1]


def test_the_logits_of_a_batch_are_limited(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a vocabulary of 150,000, those of 8,000 tokens would take 5 GB."""
    prompts, completions = [f"What is {n}?" for n in range(12)], ["It is " + "so " * n for n in range(1, 13)]
    whole = log_probs(model, tokenizer, prompts, completions)
    limit = 60 * len(tokenizer)
    monkeypatch.setattr("dlm_trl.models.score.LOGITS_AT_ONCE", limit)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda head, inputs, logits: seen.append(logits.numel()))
    found = log_probs(model, tokenizer, prompts, completions)
    assert len(seen) > 3 and max(seen) <= limit
    assert [one.total for one in found] == pytest.approx([one.total for one in whole], rel=1e-4)


def test_empty_texts_and_unequal_lists_are_refused(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="row 1 has an empty completion"):
        log_probs(model, tokenizer, ["a", "b"], ["c", ""])
    with pytest.raises(ValueError, match="row 0 has an empty prompt"):
        log_probs(model, tokenizer, [[]], ["c"])
    with pytest.raises(ValueError, match="shorter"):
        log_probs(model, tokenizer, ["a", "b"], ["c"])


def test_the_head_gets_contiguous_hidden_states(model, tokenizer) -> None:
    pieces: list[bool] = []
    plain = model.get_output_embeddings().register_forward_hook(
        lambda _, args, __: pieces.append(args[0].is_contiguous())
    )
    with plain:
        log_probs(model, tokenizer, ["What lifts the dough?"] * 3, ["The gas.", "The yeast.", "A baker."])
        generate(model, tokenizer, ["What lifts the dough?", "Who bakes?"], max_new_tokens=3)
    assert pieces and all(pieces)
    before = len(model.get_output_embeddings()._forward_pre_hooks)
    assert before == 0
