"""Scores of preferred answers, the numbers of the report, and the advice that follows from them."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.numbers import Measure
from dlm_trl.evaluation.preferences import (
    PreferenceScores,
    PreferenceTokens,
    advise_preferences,
    margins,
    preference_measures,
    score_preferences,
)

ROWS = {
    "prompt": [[{"role": "user", "content": "Who bakes?"}], [{"role": "user", "content": "What lifts the dough?"}]],
    "chosen": [[{"role": "assistant", "content": "The baker."}], [{"role": "assistant", "content": "The gas."}]],
    "rejected": [[{"role": "assistant", "content": "Nobody at all."}], [{"role": "assistant", "content": "A crane."}]],
}


def test_scores_are_the_models_log_probabilities(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = PreferenceTokens.of(tokenizer, ROWS, ["a", "b"])
    assert tokenizer.decode(tokens.chosen[1]).startswith("The gas.")
    scores = score_preferences(model, tokenizer, tokens)
    for prompt, answer, total, mean in (
        (tokens.prompts[0], tokens.chosen[0], scores.chosen[0], scores.chosen_per_token[0]),
        (tokens.prompts[1], tokens.rejected[1], scores.rejected[1], scores.rejected_per_token[1]),
    ):
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logits = model(ids).logits.log_softmax(-1)[0]
        expected = sum(logits[len(prompt) + i - 1, token].item() for i, token in enumerate(answer))
        assert total == pytest.approx(expected, abs=1e-3)
        assert mean == pytest.approx(expected / len(answer), abs=1e-3)


BEFORE = PreferenceScores([-4.0, -6.0], [-5.0, -3.0], [-1.0, -2.0], [-1.5, -0.5])
AFTER = PreferenceScores([-3.0, -7.0], [-9.0, -2.0], [-0.5, -2.5], [-2.5, -0.4])


def test_margins_are_relative_to_the_reference() -> None:
    assert margins(BEFORE, BEFORE, 0.1) == [0.0, 0.0]
    assert margins(AFTER, BEFORE, 0.5) == [0.5 * (1 + 4), 0.5 * (-1 - 1)]
    named = {m.name: m for m in preference_measures("trained", BEFORE, BEFORE, AFTER, 0.5)}
    accuracy, margin = named["reward accuracy, trained"], named["reward margin, trained"]
    assert (accuracy.before, accuracy.after, accuracy.questions) == (0.0, 0.5, 2)
    assert (margin.before, margin.after) == (0.0, 0.75)
    likelier = named["chosen likelier than rejected, trained"]
    assert (likelier.before, likelier.after) == (0.5, 0.5)
    assert named["log-probability of chosen, trained"].after == -1.5
    assert preference_measures("trained", BEFORE, None, AFTER, 0.5)[0].before is None


GOOD = [
    Measure("reward accuracy, trained", "share", 0.0, 1.0),
    Measure("reward accuracy, held-out", "share", 0.0, 0.9, low=0.6, high=1.0),
    Measure("log-probability of chosen, trained", "nats per token", -2.0, -2.1),
    Measure("F1, seen", "share", 0.9, 0.88),
    Measure("perplexity, general text", "per token", 40.0, 41.0),
]


@pytest.mark.parametrize(
    ("number", "change", "words"),
    [
        (0, {}, "No rule asks for a change"),
        (3, {"after": 0.8}, "Recall of the notes fell (F1, seen 90.0% to 80.0%)"),
        (0, {"after": 0.7}, "aren't learned yet (reward accuracy 70.0%"),
        (1, {"after": 0.3, "low": 0.1, "high": 0.6}, "doesn't carry over to held-out rows"),
        (2, {"after": -3.5}, "got less likely, too"),
        (4, {"after": 60.0}, "perplexity of general text rose by 50%"),
    ],
)
def test_each_rule_of_the_advice(number: int, change: dict[str, float], words: str) -> None:
    measures = [replace(m, **change) if i == number else m for i, m in enumerate(GOOD)]
    (sentence,) = advise_preferences(measures)
    assert words in sentence


def test_recall_that_fell_comes_first() -> None:
    worse = [replace(GOOD[0], after=0.5), GOOD[1], GOOD[2], replace(GOOD[3], after=0.1), GOOD[4]]
    assert [sentence.split()[0] for sentence in advise_preferences(worse)] == ["Recall", "The"]
