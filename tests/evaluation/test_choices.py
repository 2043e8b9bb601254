"""Multiple choice about notes: options that give nothing away, and a model that has learned some answers."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation import choices
from dlm_trl.evaluation.answers import normalize
from dlm_trl.evaluation.choices import NEUTRAL, choice_accuracies, choice_accuracy, choice_questions, rows
from dlm_trl.evaluation.recall import RecallQuestion
from dlm_trl.models.chat import encode_answered
from dlm_trl.models.score import log_probs

ANSWERS = ["A round loaf.", "The outside.", "Wild yeast.", "Once a week.", "Like jelly.", "Rye flour."]
ASKED: list[RecallQuestion] = [(f"What is number {n}?", answer, None) for n, answer in enumerate(ANSWERS)]
ROOT = Path(__file__).parents[2]


@given(st.lists(st.text(alphabet="ab .", max_size=6), min_size=1, max_size=12), st.integers(0, 3))
def test_options_are_distinct_and_one_is_right(answers: list[str], seed: int) -> None:
    groups = {"seen": [(f"q{n}", answer, None) for n, answer in enumerate(answers)]}
    asked = choice_questions(groups, seed=seed)
    assert asked == choice_questions(groups, seed=seed)
    for question in asked.get("seen", []):
        answer = answers[int(question.question[1:])]
        assert question.options[question.right] == answer
        assert len({normalize(option) for option in question.options}) == len(question.options) == 4
        assert set(question.options) <= set(answers)


def test_wrong_options_are_nearest_in_length_and_clearly_different() -> None:
    answers = [
        "a week",
        "about a week",
        "one week",
        "two hours",
        "a round loaf",
        "the gas",
        "x" * 90,
        "y" * 91,
        "z" * 92,
    ]
    (asked,) = choice_questions({"": [("How long?", "a week", None)]}, answers)[""]
    assert set(asked.options) == {"a week", "two hours", "a round loaf", "the gas"}
    assert choice_questions({"seen": [("q", "a", None)]}, ["b", "c"]) == {}
    with pytest.raises(ValueError, match="3 other answers"):
        choice_accuracy(None, None, [("q", "a", None)], ["b", "c"])


def test_neither_length_nor_position_gives_the_answer_of_the_demo_away() -> None:
    lines = (ROOT / "recipes/notes_questions.jsonl").read_text(encoding="utf-8").splitlines()
    read = [row for line in lines if "answer" in (row := json.loads(line))]
    asked = choice_questions({"": [(row.get("reworded") or row["question"], row["answer"], None) for row in read]})[""]
    assert len(asked) == len(read)
    for picked in (max, min):
        by_length = sum(picked(range(4), key=lambda i: len(q.options[i])) == q.right for q in asked) / len(asked)
        assert by_length < 0.35
    assert all(0.1 < sum(q.right == i for q in asked) / len(asked) < 0.45 for i in range(4))


def test_a_model_picks_what_it_has_learned(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    encoded = [encode_answered(tokenizer, [{"role": "user", "content": q}], answer) for q, answer, _ in ASKED]
    for _ in range(60):
        for ids, start in encoded:
            model(torch.tensor([ids]), labels=torch.tensor([[-100] * start + ids[start:]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = choice_accuracy(model, tokenizer, ASKED)
    assert (found.chance, found.questions) == (0.25, 6)
    assert found.accuracy > 0.8, "what a model so small answers to anything gains little from its own question"
    assert found.low < found.accuracy < found.high <= 1.0
    wrong = [(question, ANSWERS[(n + 1) % 6], None) for n, (question, *_) in enumerate(ASKED)]
    assert choice_accuracy(model, tokenizer, wrong).accuracy < 0.2


def test_the_gain_is_measured_in_the_chat_template(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    def total(question: str, answer: str) -> float:
        turns = [("user", question), ("assistant", answer)]
        text = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
        start = len(tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
        ids = tokenizer(text)["input_ids"]
        return log_probs(model, tokenizer, [ids[:start]], [ids[start:]])[0].total

    asked = choice_questions({"": ASKED})[""]
    gains = [[total(q.question, option) - total(NEUTRAL, option) for option in q.options] for q in asked]
    right = [gain.index(max(gain)) == q.right for gain, q in zip(gains, asked, strict=True)]
    assert 0 < sum(right) < 6
    assert choice_accuracy(model, tokenizer, ASKED).accuracy == sum(right) / 6


def test_an_answer_that_is_likely_anyway_gains_nothing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A favourite is the likeliest answer to all questions, and must not win all of them."""
    gains = {ANSWERS[0]: (-1.0, -0.5)}  # after a question, and after none

    def scores(model, tokenizer, prompts, completions, advance):
        said = [tokenizer.decode(ids).removesuffix("<|im_end|>\n") for ids in completions]
        asks = ["number" in tokenizer.decode(ids) for ids in prompts]
        right = [str(n) in tokenizer.decode(ids) for ids, n in zip(prompts, map(ANSWERS.index, said), strict=True)]
        return [
            choices_score(gains.get(text, (-9.0, -9.0))[not ask] + hit)
            for text, ask, hit in zip(said, asks, right, strict=True)
        ]

    def choices_score(total: float) -> object:
        return type("Score", (), {"total": total})

    monkeypatch.setattr(choices, "log_probs", scores)
    assert choice_accuracy(model, tokenizer, ASKED).accuracy == 1.0


def test_groups_are_scored_in_one_pass_over_each_row(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = choice_questions({"seen": ASKED, "reverse": [("Which loaf?", ANSWERS[0], "Be brief.")]})
    calls, progress = [], []

    def watched(model, tokenizer, prompts, *rest, **options):
        calls.extend(tokenizer.decode(ids) for ids in prompts)
        return log_probs(model, tokenizer, prompts, *rest, **options)

    monkeypatch.setattr(choices, "log_probs", watched)
    found = choice_accuracies(model, tokenizer, groups, lambda text: f"Notes: x. {text}", progress.append)
    assert {group: choice.questions for group, choice in found.items()} == {"seen": 6, "reverse": 1}
    assert len(calls) == sum(progress) == rows(groups) == 7 * 4 + 6 + 4  # four unasked options have the system prompt
    assert all("Notes: x. " in prompt for prompt in calls)
    assert (
        found["seen"]
        == choice_accuracies(model, tokenizer, {"seen": groups["seen"]}, lambda t: f"Notes: x. {t}")["seen"]
    )


def test_a_diverged_model_is_no_better_than_chance(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    asked = [(f"What is {n}?", f"{answer} {n}", None) for n in range(20) for answer in ANSWERS]
    assert choice_accuracy(model, tokenizer, asked).accuracy < 0.4
