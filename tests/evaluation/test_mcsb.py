"""Symbol binding, measured on models with known answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from dlm_trl.evaluation.mcsb import (
    McsbQuestion,
    choose,
    described_questions,
    glossed_questions,
    mcsb_scores,
    measure_binding,
    rotated,
    wilson,
)
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError
from dlm_trl.tasks import prompts
from dlm_trl.tasks.mcsb import Mcsb
from tests.tasks.tokenizers import WORDS, gpt2_style, llama2_style, qwen_style

GLOSSES = {word: f"what the letters {' '.join(word)} make" for word in WORDS}


class Reader(torch.nn.Module):
    """A model that reads the question as text and answers with `answer(description, {label: option})`."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, answer: Callable[[str, dict[str, str]], str]) -> None:
        super().__init__()
        self.tokenizer, self.answer = tokenizer, answer

    def forward(self, input_ids, attention_mask, logits_to_keep, use_cache):
        logits = torch.zeros(len(input_ids), len(logits_to_keep), len(self.tokenizer))
        for row, ids, mask in zip(logits, input_ids, attention_mask, strict=True):
            text = self.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True).strip()
            description, *lines = text.removeprefix("Description: ").splitlines()
            assert lines.pop().startswith("Answer (")
            label = self.answer(description, dict(line.split(") ") for line in lines))
            whole = self.tokenizer(text + f" {label}", add_special_tokens=False)["input_ids"]
            assert ids[mask.bool()].tolist() == whole[:-1]  # question and label are tokenised as one text
            row[logits_to_keep.tolist().index(int(mask.sum()) - 1), whole[-1]] = 1.0
        return SimpleNamespace(logits=logits)


def knowing(description: str, options: dict[str, str]) -> str:
    return next(label for label, option in options.items() if GLOSSES[option] == description)


def questions(tokenizer: Any, count: int = 12, **options: Any) -> list[McsbQuestion]:
    return glossed_questions(Mcsb(tokenizer, words=WORDS, **options), GLOSSES, count, seed=1)


@pytest.mark.parametrize("style", [gpt2_style, qwen_style, llama2_style])
@pytest.mark.parametrize("labels", ["upper", "lower", "digits"])
def test_a_model_that_binds_is_right_in_every_order(style, labels: str) -> None:
    tokenizer = style()
    every = questions(tokenizer, choices=(5, 9), labels=labels)
    found = measure_binding(Reader(tokenizer, knowing), tokenizer, every)
    assert (found.accuracy, found.ppa, found.unchanged) == (1.0, 1.0, 1.0)
    assert found.low < 1.0 == pytest.approx(found.high)
    assert found.questions == len(every) == 12
    assert found.passes == sum(len(q.options) for q in every)
    # The right option gets each label equally often, so all labels of a question are answered equally often.
    assert found.labels[every[0].labels[0]] == pytest.approx(len(every) / found.passes)
    assert sum(found.labels.values()) == pytest.approx(1.0)


def test_a_model_with_a_favourite_label_is_at_chance() -> None:
    tokenizer = gpt2_style()
    found = measure_binding(
        Reader(tokenizer, lambda _, options: list(options)[1]), tokenizer, questions(tokenizer, choices=4)
    )
    assert (found.accuracy, found.chance, found.ppa, found.unchanged) == (0.25, 0.25, 0.25, 0.0)
    assert found.labels == {"B": 1.0}


def test_a_model_that_picks_the_wrong_word_is_consistent() -> None:
    tokenizer = gpt2_style()

    def alphabetic(description: str, options: dict[str, str]) -> str:
        wrong = sorted(option for option in options.values() if GLOSSES[option] != description)
        return next(label for label, option in options.items() if option == wrong[0])

    found = measure_binding(Reader(tokenizer, alphabetic), tokenizer, questions(tokenizer))
    assert (found.accuracy, found.ppa, found.unchanged) == (0.0, 1.0, 1.0)
    assert (found.low, found.high) == pytest.approx((0.0, 0.2425), abs=1e-4)


def test_scores_by_hand() -> None:
    # cup, cup, dog: the plurality is cup, in two of three orders; the other question has one answer.
    found = mcsb_scores([["cup", "cup", "dog"], ["a", "a"]], ["dog", "a"])
    assert found["accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["ppa"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["unchanged"] == 0.5


PICKS = st.integers(2, 6).flatmap(lambda n: st.lists(st.sampled_from("abcdef"[:n]), min_size=n, max_size=n))


@given(st.lists(PICKS, min_size=1, max_size=20))
@settings(deadline=None)
def test_scores_are_bounded_by_each_other(picked: list[list[str]]) -> None:
    found = mcsb_scores(picked, ["a"] * len(picked))
    assert found["chance"] - 1e-9 <= found["ppa"] <= 1
    assert 0 <= found["low"] <= found["accuracy"] + 1e-9
    assert found["accuracy"] - 1e-9 <= found["high"] <= 1
    assert found["unchanged"] <= found["ppa"] + 1e-9
    assert found["accuracy"] < 1 or found["unchanged"] == 1


def test_wilson_gives_known_intervals() -> None:
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(1.0, 200) == pytest.approx((0.9812, 1.0), abs=1e-4)
    assert wilson(0.5, 1000)[1] - wilson(0.5, 1000)[0] < wilson(0.5, 100)[1] - wilson(0.5, 100)[0]


def test_no_questions_is_an_error(model, tokenizer) -> None:
    with pytest.raises(ValueError, match="no questions"):
        measure_binding(model, tokenizer, [])


def test_rotations_put_every_option_at_every_place() -> None:
    orders = [rotated("abcd", by) for by in range(4)]
    assert orders[1] == ["b", "c", "d", "a"]
    assert all(sorted(column) == list("abcd") for column in zip(*orders, strict=True))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batches_choose_like_single_prompts(family: str, model, tokenizer) -> None:
    if family == "gpt2":
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
        model = GPT2LMHeadModel(config).train()
    rng = random.Random(0)
    texts = ["".join(rng.choices("bread dough flour", k=rng.randint(1, 60))) for _ in range(40)]
    candidates = [rng.sample(range(len(tokenizer)), rng.randint(2, 9)) for _ in texts]
    training = model.training
    found = choose(model, tokenizer, texts, candidates, token_budget=200)
    assert model.training is training
    model.eval()
    for text, ids, chosen in zip(texts, candidates, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1]
        assert ids[chosen] == max(ids, key=lambda token: logits[token].item())
    assert len(set(found)) > 2


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return load_base("tiny"), load_tokenizer("tiny")


def test_descriptions_come_from_the_base_without_its_adapter(tiny) -> None:
    model, tokenizer = tiny
    task = Mcsb(tokenizer, choices=(5, 9), split="held_out")
    plain = described_questions(model, task, 12, seed=3)
    assert len(plain) > 6
    assert {q.word for q in plain} <= set(task.words)
    assert len({q.options for q in plain}) == len(plain)

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(load_base("tiny"), config).train()
    flags = [p.requires_grad for p in adapted.parameters()]
    state = torch.get_rng_state()
    assert described_questions(adapted, task, 5, seed=3) == plain[: len(described_questions(model, task, 5, seed=3))]
    assert adapted.training
    assert [p.requires_grad for p in adapted.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    # The answers come from the adapter.
    assert measure_binding(adapted, tokenizer, plain) != measure_binding(model, tokenizer, plain)


def test_a_logged_row_can_be_a_question(tiny) -> None:
    model, tokenizer = tiny
    task = Mcsb(tokenizer, labels=("upper", "digits"))
    examples = [task.example(item, "a thing with parts") for item in task.draw(random.Random(0), 6)]
    every = [McsbQuestion(**json.loads(json.dumps(dict(example.facts)))) for example in examples]
    assert measure_binding(model, tokenizer, every) == measure_binding(
        model, tokenizer, [McsbQuestion(**e.facts) for e in examples]
    )
    # The first prompt is the row of training.
    assert examples[0].prompt == prompts.question(every[0].description, every[0].options, every[0].labels)


def test_a_base_that_never_ends_a_description_gives_no_questions(model) -> None:
    tokenizer = gpt2_style()
    torch.manual_seed(0)
    babbler = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=1))
    task = Mcsb(tokenizer, words=WORDS, max_new_tokens=3)
    assert len(described_questions(babbler, task, 4, seed=0, attempts=2)) < 4


def test_labels_that_the_tokenizer_cannot_write(model, tokenizer) -> None:
    with pytest.raises(DlmError, match="not one token each"):
        measure_binding(model, tokenizer, [McsbQuestion("a", "first", ["a", "b"], "日本")])
