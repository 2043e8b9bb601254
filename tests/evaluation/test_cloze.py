"""The cloze baseline equals the textbook formula, computed option by option."""

from __future__ import annotations

import math

import pytest
import torch

from dlm_trl.evaluation.cloze import _tokens_after_lead, cloze, cloze_scores
from dlm_trl.evaluation.mcsb import McsbQuestion
from dlm_trl.tasks.mcsb import Mcsb
from tests.tasks.tokenizers import WORDS, gpt2_style, llama2_style, qwen_style

ASKED = [
    McsbQuestion("flour", "what bread is made of", ("flour", "yeast", "a baker"), "ABC"),
    McsbQuestion("gas", "what lifts the dough", ("crust", "gas", "kneading", "flour"), "ABCD"),
    McsbQuestion("crust", "the outside", ("crust", "gluten"), "AB"),
    McsbQuestion("yeast", "it lives in the starter", ("baker", "yeast", "bacteria"), "ABC"),
]


@torch.no_grad()
def log_prob(model, tokenizer, lead: str, option: str) -> tuple[float, int]:
    """The log-probability of the option after the lead, token by token, and its number of tokens."""
    before = tokenizer(lead)["input_ids"]
    ids = tokenizer(f"{lead} {option}")["input_ids"]
    assert ids[: len(before)] == before
    logits = model.eval()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(logits[k - 1, ids[k]].item() for k in range(len(before), len(ids))), len(ids) - len(before)


def by_hand(model, tokenizer) -> tuple[float, float]:
    right = plain = 0
    for q in ASKED:
        after = [log_prob(model, tokenizer, f"Description: {q.description}\nWord:", o) for o in q.options]
        alone = [log_prob(model, tokenizer, "Word:", o) for o in q.options]
        gain = [a - u for (a, _), (u, _) in zip(after, alone, strict=True)]
        mean = [a / n for a, n in after]
        right += q.options[gain.index(max(gain))] == q.word
        plain += q.options[mean.index(max(mean))] == q.word
    return right / len(ASKED), plain / len(ASKED)


@pytest.mark.parametrize("sharper", [1, 2, 3])
def test_equals_the_formula_on_options_of_several_tokens(sharper: int, model, tokenizer) -> None:
    torch.manual_seed(sharper)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    found = cloze(model, tokenizer, ASKED)
    assert (found.accuracy, found.plain) == by_hand(model, tokenizer)
    assert found.low < found.accuracy + 1e-9 and found.accuracy - 1e-9 < found.high
    assert found.chance == pytest.approx((1 / 3 + 1 / 4 + 1 / 2 + 1 / 3) / 4)


def test_the_number_of_passes(model, tokenizer) -> None:
    found = cloze(model, tokenizer, ASKED)
    options = [option for q in ASKED for option in q.options]
    assert found.passes == len(options) + len(set(options))
    assert found.passes_per_question == found.passes / 4 > 1


def test_common_words_do_not_win() -> None:
    # "thing" is always likelier, but the description doesn't make it more so.
    common, meant = math.log(0.5), math.log(0.01)
    found = cloze_scores([[common, meant]], [[common, math.log(0.001)]], [1])
    assert found["accuracy"] == 1.0
    assert cloze_scores([[common, meant]], [[0.0, 0.0]], [1])["accuracy"] == 0.0


def test_lists_of_different_lengths_are_rejected() -> None:
    with pytest.raises(ValueError, match="no questions"):
        cloze_scores([], [], [])
    with pytest.raises(ValueError):
        cloze_scores([[0.0, 1.0]], [[0.0]], [0])
    with pytest.raises(ValueError):
        cloze_scores([[0.0, 1.0]], [[0.0, 1.0]], [0, 1])


def test_no_questions_is_an_error(model, tokenizer) -> None:
    with pytest.raises(ValueError, match="no questions"):
        cloze(model, tokenizer, [])


@pytest.mark.parametrize("style", [gpt2_style, qwen_style, llama2_style])
def test_a_word_is_the_token_that_the_task_chose(style) -> None:
    tokenizer = style()
    for word in Mcsb(tokenizer, words=WORDS).words:
        (token,) = _tokens_after_lead(tokenizer, word)
        assert tokenizer.decode([token]).strip() == word
