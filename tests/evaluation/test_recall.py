"""Recall, with a model that has really learned a few answers."""

from pathlib import Path

import pytest
import torch
import trl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.recall import RecallQuestion, answer_recall
from dlm_trl.models.chat import encode_answered, set_thinking
from dlm_trl.models.load import load_tokenizer

LEARNT: list[RecallQuestion] = [
    ("What is a boule?", "A round loaf.", None),
    ("What is a boule?", "Un pain rond.", "French"),
    ("What is the crust?", "The outside.", None),
]


def messages(question: str, system: str | None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": question}]


@pytest.fixture
def taught(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    rows = []
    for question, answer, system in LEARNT:
        prompt = tokenizer.apply_chat_template(
            messages(question, system), add_generation_prompt=True, return_dict=False
        )
        rows.append((prompt, [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]))
    return teach(model, rows)


def teach(model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]]) -> PreTrainedModel:
    """The model, trained on the second part of each pair of token ids."""
    rows = [(torch.tensor([a + b]), torch.tensor([[-100] * len(a) + b])) for a, b in pairs]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        for ids, labels in rows:
            model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_counts_learned_answers(taught: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    recall = answer_recall(taught, tokenizer, LEARNT)
    assert recall.answers == ("A round loaf.", "Un pain rond.", "The outside.")
    assert recall.shares() == {"exact match": 1.0, "F1": 1.0, "fuzzy match": 1.0}
    assert recall.chance_f1 == pytest.approx(0)  # the three answers share only an article
    assert recall.right() == {"exact match": 3.0, "F1": 3.0, "fuzzy match": 3.0}

    # White space isn't a mistake, a typo is one except for `fuzzy`, another answer is one for all scores.
    questions = [
        ("What is a boule?", " A  round\nloaf. ", None),
        ("What is a boule?", "Un pain ronde.", "French"),
        ("What is the crust?", "The inner part.", None),
    ]
    recall = answer_recall(taught, tokenizer, questions)
    assert recall.shares() == pytest.approx({"exact match": 1 / 3, "F1": (1 + 2 / 3) / 3, "fuzzy match": 2 / 3})
    questions = [(question, "A pain outside, round.", system) for question, _, system in LEARNT]
    recall = answer_recall(taught, tokenizer, questions)
    assert recall.f1 > 0.3
    assert recall.right() == pytest.approx({"exact match": 0, "F1": 0, "fuzzy match": 0}), "any answer is as good"


def test_an_answer_that_goes_on_is_not_exact(taught: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    recall = answer_recall(taught, tokenizer, [("What is a boule?", "A round", None)])
    assert recall.answers[0].startswith("A round lo")
    assert (recall.exact_match, recall.fuzzy) == (0.0, 0.0)
    assert 0 < recall.f1 < 1


@pytest.mark.parametrize(
    ("name", "thinking", "end"),
    [
        ("qwen3", True, "<|im_end|>"),
        ("gptoss", False, "<|return|>"),
        ("deepseek_r1_distill", False, "<｜end▁of▁sentence｜>"),
    ],
)
def test_learned_answers_count_whatever_the_template_puts_before_them(
    model: PreTrainedModel, random_base: Path, name: str, thinking: bool, end: str
) -> None:
    tokenizer = load_tokenizer(str(random_base))
    tokenizer.add_tokens(["<think>", "</think>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>"])
    tokenizer.add_tokens(["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"])
    tokenizer.chat_template = (Path(trl.__file__).parent / f"chat_templates/{name}.jinja").read_text()
    tokenizer.eos_token = end
    set_thinking(tokenizer, thinking)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoded = [encode_answered(tokenizer, messages(question, None), answer) for question, answer, _ in LEARNT[::2]]
    teach(model, [(ids[:start], ids[start:]) for ids, start in encoded])
    recall = answer_recall(model, tokenizer, LEARNT[::2])
    assert recall.answers == ("A round loaf.", "The outside.") and recall.exact_match == 1.0


def test_an_untrained_model_recalls_nothing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    recall = answer_recall(model, tokenizer, LEARNT)
    assert recall.shares() == {"exact match": 0.0, "F1": 0.0, "fuzzy match": 0.0}
    assert len(recall.answers) == len(LEARNT)


def test_no_questions_is_an_error(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="no questions"):
        answer_recall(model, tokenizer, [])


def test_progress_is_reported_for_every_answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    progress: list[int] = []
    answer_recall(model, tokenizer, LEARNT, progress.append)
    assert sum(progress) == len(LEARNT)
