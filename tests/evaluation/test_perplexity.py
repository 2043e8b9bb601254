"""Perplexity scores every token once for any window, and doesn't change the model."""

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BloomConfig, BloomForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation import perplexity as module
from dlm_trl.evaluation.perplexity import general_text, perplexity

TEXT = "Autolyse is a rest of flour and water before the salt goes in. It lasts from half an hour to two hours."


def one_token_at_a_time(model: PreTrainedModel, ids: list[int], window: int) -> float:
    """The definition, token by token: each token given those before it in its window."""
    total = 0.0
    for position in range(1, len(ids)):
        start = (position - 1) // (window - 1) * (window - 1)
        logits = model(torch.tensor([ids[start:position]])).logits[0, -1]
        total -= logits.log_softmax(-1)[ids[position]].item()
    return math.exp(total / (len(ids) - 1))


@torch.no_grad()
def test_equals_the_definition(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = [tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    for window in (2, 7, 16, len(ids) - 1, len(ids), len(ids) + 1, 200):
        expected = one_token_at_a_time(model, ids, window)
        assert perplexity(model, tokenizer, TEXT, window) == pytest.approx(expected, rel=1e-4), window


@torch.no_grad()
def test_a_model_without_a_context_limit_takes_any_window(tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "n_layer": 1, "n_head": 2}
    bloom = BloomForCausalLM(BloomConfig(**sizes)).eval()
    ids = [tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    assert perplexity(bloom, tokenizer, TEXT, 16) == pytest.approx(one_token_at_a_time(bloom, ids, 16), rel=1e-4)


@given(text=st.text(min_size=1, max_size=300), window=st.integers(2, 256))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary_size(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, window: int
) -> None:
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, tokenizer, text, window) == pytest.approx(len(tokenizer), rel=1e-4)


def test_batching_changes_nothing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = perplexity(model, tokenizer, TEXT * 5, window=32)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 1)
    progress: list[float] = []
    assert perplexity(model, tokenizer, TEXT * 5, 32, progress.append) == pytest.approx(together, rel=1e-5)
    assert len(progress) > 5 and sum(progress) == pytest.approx(1), "one share for each batch"


def test_dropout_is_off_while_measuring_and_the_mode_is_restored(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    assert perplexity(model, tokenizer, TEXT, 64) == perplexity(model, tokenizer, TEXT, 64)
    assert model.training


@torch.no_grad()
def test_without_a_bos_token_the_first_token_is_context_only(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    bare = deepcopy(tokenizer)
    bare.bos_token = None
    expected = one_token_at_a_time(model, bare(TEXT, add_special_tokens=False)["input_ids"], window=16)
    assert perplexity(model, bare, TEXT, 16) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="fewer than two tokens"):
        perplexity(model, bare, "a", 16)


@pytest.mark.parametrize("window", [0, 1, 513])
def test_a_window_that_does_not_fit_is_rejected(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int
) -> None:
    with pytest.raises(ValueError, match="between 2 and 512"):
        perplexity(model, tokenizer, TEXT, window)


def test_the_general_text_is_plain_and_has_its_size() -> None:
    text = general_text()
    assert 45_000 < len(text.encode()) < 55_000
    assert text.isascii()
    assert all(len(paragraph.split()) >= 10 for paragraph in text.strip().split("\n\n"))
