"""Multiple-choice symbol binding: the answer is correct by construction, for any tokenizer and description."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.models.generate import generate
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError
from dlm_trl.tasks.mcsb import LABEL_STYLES, Mcsb, bind, contains_word, nouns
from dlm_trl.tasks.prompts import FEW_SHOT
from dlm_trl.tasks.protocol import Example, Reject
from tests.tasks.tokenizers import WORDS, gpt2_style, llama2_style, qwen_style, words_only

STYLES = {"gpt2": gpt2_style, "qwen": qwen_style, "llama2": llama2_style}


@pytest.fixture(scope="module", params=STYLES)
def kind(request: pytest.FixtureRequest) -> tuple[str, object]:
    return request.param, STYLES[request.param]()


@pytest.fixture(scope="module")
def gpt2():
    return gpt2_style()


def task_of(tokenizer, **options) -> Mcsb:
    return Mcsb(tokenizer, words=WORDS, **options)


def encoded(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_labels_follow_the_tokenizer(kind):
    name, tokenizer = kind
    assert bind(tokenizer, "ABCDE").targets[0] == ("A" if name == "llama2" else " A")
    digits = bind(tokenizer, "12345")
    assert (digits.gap, digits.targets[0]) == {"gpt2": ("", " 1"), "qwen": (" ", "1"), "llama2": ("", "1")}[name]


@pytest.mark.parametrize("labels", LABEL_STYLES)
def test_prompt_and_target_tokenise_as_one_text(kind, labels: str):
    _, tokenizer = kind
    task = task_of(tokenizer, choices=(2, 9), labels=labels)
    items = task.draw(random.Random(0), 20)
    for item, row in zip(items, task.examples(items, [" a thing with parts"] * 20), strict=True):
        at = item.options.index(item.word)
        text = row.prompt.rstrip(" ") + " " + item.labels[at]
        assert text.splitlines()[1 + at] == f"{item.labels[at]}) {item.word}"
        assert encoded(tokenizer, row.prompt) + encoded(tokenizer, row.target) == encoded(tokenizer, text)
        assert [encoded(tokenizer, c) for c in row.choices] == [[token] for token in item.bound.ids]
        assert row.target == row.choices[at]


def test_words_are_one_token_after_a_space(kind):
    _, tokenizer = kind
    task = Mcsb(tokenizer, words=[*WORDS, "chrysanthemum", "river bank"], held_out=0.0)
    assert task.words == WORDS


def test_labels_that_collide_are_an_error():
    tokenizer = words_only("A B C ) ( : to Answer Description a thing")
    assert len(set(bind(tokenizer, "ABC").ids)) == 3
    with pytest.raises(DlmError, match="A B C D E are not one token each") as caught:
        bind(tokenizer, "ABCDE")
    assert caught.value.kind == "TokenizerError"


def test_labels_of_several_tokens_are_an_error(gpt2):
    with pytest.raises(DlmError, match="α β γ are not one token each"):
        bind(gpt2, "αβγ")


@given(seed=st.integers(0, 2**64 - 1), least=st.integers(2, 5), more=st.integers(0, 4), near=st.booleans())
@settings(deadline=None, max_examples=40)
def test_drawn_items(gpt2, seed: int, least: int, more: int, near: bool):
    task = task_of(
        gpt2,
        choices=(least, least + more),
        labels=("upper", "digits"),
        distractors="near" if near else "random",
        embeddings=torch.randn(len(gpt2), 8, generator=torch.Generator().manual_seed(0)),
    )
    items = task.draw(random.Random(seed), 10)
    for word, options, labels, _ in items:
        assert word in options
        assert len(set(options)) == len(options) == len(labels)
        assert least <= len(options) <= least + more
        assert labels in ("ABCDEFGHI"[: len(labels)], "123456789"[: len(labels)])
    assert items == task.draw(random.Random(seed), 10)


def test_the_answer_has_every_position_equally_often(gpt2):
    items = task_of(gpt2, choices=4).draw(random.Random(0), 2000)
    counts = [sum(item.options.index(item.word) == k for item in items) for k in range(4)]
    assert min(counts) > 420  # 500 expected, minus four standard deviations


def test_held_out_words_are_never_trained(gpt2):
    train = task_of(gpt2, held_out=0.4)
    tested = task_of(gpt2, held_out=0.4, split="held_out")
    assert {*train.words, *tested.words} == set(WORDS)
    met = [{w for item in task.draw(random.Random(0), 200) for w in item.options} for task in (train, tested)]
    assert met == [set(train.words), set(tested.words)]
    assert not met[0] & met[1]
    # Decided by the hash of the word, independently of the list.
    assert set(Mcsb(gpt2, words=WORDS[::2], held_out=0.4, choices=3).words) <= set(train.words)


def test_near_distractors_are_the_nearest(gpt2):
    angles = torch.linspace(0, 6.2, 32)  # the words on a circle, in order
    embeddings = torch.zeros(len(gpt2), 2)
    tokens = [encoded(gpt2, f" {w}")[0] for w in WORDS]
    embeddings[tokens] = torch.stack([angles.cos(), angles.sin()], 1)
    task = task_of(gpt2, held_out=0.0, distractors="near", embeddings=embeddings)
    for item in task.draw(random.Random(0), 100):
        at = WORDS.index(item.word)
        assert all(min((at - WORDS.index(o)) % 32, (WORDS.index(o) - at) % 32) <= 9 for o in item.options)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" .  42", "empty"),
        (" a big river", "contains the word"),
        (" what Rivers are", "contains the word"),
        (" stone" * 60, "truncated"),
    ],
)
def test_rejected_descriptions(gpt2, text: str, reason: str):
    task = task_of(gpt2)
    (item,) = task.draw(random.Random(0), 1)
    options = ("river", *[o for o in item.options if o not in ("river", item.word)])[:5]
    assert task.examples([item._replace(word="river", options=options)], [text]) == [Reject(reason)]


@pytest.mark.parametrize(
    ("word", "description", "given_away"),
    [
        ("cat", "CATS are small", True),
        ("cat", "what one can locate", False),
        ("baby", "two babies", True),
        ("dance", "dancing slowly", True),
        ("key", "a kettle", False),
    ],
)
def test_a_description_that_contains_its_word(word: str, description: str, given_away: bool):
    assert contains_word(description, word) is given_away


def test_an_example_has_the_facts_for_the_log(gpt2):
    task = task_of(gpt2, loss="labels")
    items = task.draw(random.Random(3), 2)
    first, second = task.examples(items, ["  a tool \t to hit with ", ""])
    assert isinstance(first, Example)
    assert second == Reject("empty")
    assert first.loss == "labels"
    assert first.facts == {
        "word": items[0].word,
        "description": "a tool to hit with",
        "options": items[0].options,
        "labels": "ABCDE",
    }
    assert task.metrics([first, first], [first.target, "none"]) == {"accuracy": 0.5, "chance": 0.2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"choices": 1}, "1 choices don't fit the labels ABCDEFGHI"),
        ({"choices": (5, 10)}, "don't fit the labels"),
        ({"choices": (6, 5)}, "don't fit the labels"),
        ({"labels": "ABA", "choices": 3}, "not all different"),
        ({"distractors": "near"}, "need embeddings"),
        ({"held_out": 1.0}, "Only 0 of the train words are a single token"),
    ],
)
def test_invalid_options_are_refused(gpt2, options: dict, words: str):
    with pytest.raises(DlmError, match=words) as caught:
        task_of(gpt2, **options)
    assert caught.value.kind == "UsageError"


def test_nouns_are_lower_case_words_outside_the_few_shot_list():
    assert len(nouns()) > 6000
    assert not {word for word, _ in FEW_SHOT} & set(nouns())
    assert all(w.isalpha() and w.islower() for w in nouns())


def test_the_embedded_base_describes_drawn_words():
    tokenizer, model = load_tokenizer("tiny"), load_base("tiny")
    task = Mcsb(tokenizer, choices=(5, 9), labels=("upper", "lower", "digits"))
    assert len(task.words) > 300
    items = task.draw(random.Random(0), 40)
    texts = generate(
        model, tokenizer, task.prompts(items), task.max_new_tokens, task.temperature, stop=task.stop, seed=0
    )
    rows = [row for row in task.examples(items, texts) if isinstance(row, Example)]
    assert len(rows) > 20
    assert all(row.facts["description"] in row.prompt for row in rows)
