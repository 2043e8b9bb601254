"""Open book, with a model that has learned to copy an answer from the text in its prompt."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation import open_book
from dlm_trl.evaluation.open_book import OpenBook, Paragraphs
from dlm_trl.evaluation.recall import Recall, RecallQuestion, answer_recall, recall_after

PROSE = [
    "A starter is a mix of flour and water.\n\nThe crust is the outside of a loaf.",
    "Kneading is folding a dough.\n \nThe crumb is the inside of a loaf. The crumb has holes.",
]
ASKED: dict[str, list[RecallQuestion]] = {
    "seen": [("What is the crust?", "The outside.", None), ("What is kneading?", "Folding a dough.", None)],
    "held-out": [("What is the crumb?", "The inside.", "Be brief.")],
}


def open_book_recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Mapping[str, Sequence[RecallQuestion]],
    prose: Sequence[str],
    advance: Callable[[int], object] | None = None,
) -> dict[str, Recall]:
    """The answers with the prose before each question; {} if the prompt has no room for it."""
    book = OpenBook.of(model, tokenizer, groups, prose)
    if book is None:
        return {}
    return {
        group: recall_after(model, tokenizer, book.prompts[group], questions, book.prefix, advance)
        for group, questions in groups.items()
    }


def prompts_of(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The prompts that the model gets, in order."""
    seen: list[str] = []
    generate = recall_after

    def watched(model, tokenizer, prompts, *rest):
        seen.extend(tokenizer.decode(prompt) for prompt in prompts)
        return generate(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(f"{__name__}.recall_after", watched)
    return seen


def test_prose_that_fits_is_in_every_prompt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = prompts_of(monkeypatch, tokenizer)
    progress: list[int] = []
    recalls = open_book_recall(model, tokenizer, ASKED, PROSE, progress.append)
    assert {group: len(recall.answers) for group, recall in recalls.items()} == {"seen": 2, "held-out": 1}
    assert sum(progress) == 3
    for prompt, question in zip(seen, ("the crust?", "kneading?", "the crumb?"), strict=True):
        assert "\n\n".join(PROSE) in prompt
        assert question in prompt.split(PROSE[1])[1], "the notes come first, so that all prompts begin alike"
    assert "Be brief." in seen[2] and "Be brief." not in seen[0]


def test_the_answers_are_the_same_without_a_shared_cache(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = open_book_recall(model, tokenizer, ASKED, PROSE)
    monkeypatch.setattr(open_book.PrefixCache, "of", lambda *_: None)
    assert open_book_recall(model, tokenizer, ASKED, PROSE) == shared
    closed = answer_recall(model, tokenizer, ASKED["seen"])
    assert closed.answers != shared["seen"].answers


def test_with_long_prose_a_question_gets_matching_paragraphs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = prompts_of(monkeypatch, tokenizer)
    filler = ["Nothing to see in this paragraph, and in no other one."] * 40
    assert open_book_recall(model, tokenizer, ASKED, [*filler, *PROSE, *filler]).keys() == ASKED.keys()
    assert "outside of a loaf" in seen[0] and "folding a dough" in seen[1] and "inside of a loaf" in seen[2]
    assert all(len(tokenizer(prompt)["input_ids"]) <= 512 for prompt in seen)


def test_there_is_no_open_book_if_the_question_fills_the_context(tokenizer: PreTrainedTokenizerBase) -> None:
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2)
    assert open_book_recall(GPT2LMHeadModel(config), tokenizer, ASKED, PROSE) == {}


@pytest.mark.parametrize("positions", [100, 128, 160])
def test_no_prompt_is_longer_than_the_context(tokenizer: PreTrainedTokenizerBase, positions: int) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=32, n_layer=1, n_head=2)
    words = " ".join(random.Random(0).choices(["gas", "dough", "crust", "loaf", "Brösel", "酵母"], k=400))
    # A position beyond the context is an IndexError in this model.
    found = open_book_recall(GPT2LMHeadModel(config), tokenizer, {"seen": ASKED["seen"][:1]}, [words, *PROSE])
    assert len(found["seen"].answers) == 1


def test_rare_words_find_a_paragraph_and_the_document_order_is_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    common = [f"What is shown is number {n}." for n in range(3)]
    hooch = "Hooch floats on a starter."
    room = len(tokenizer(hooch)["input_ids"]) + 3  # enough for one of them
    assert Paragraphs(tokenizer, [*common, hooch], room).about("What is the hooch?") == hooch
    every = Paragraphs(tokenizer, PROSE, 10_000)
    assert len(every.texts) == 4
    assert every.about("Is the crumb or the crust first?") == "\n\n".join(every.texts)
    assert Paragraphs(tokenizer, [], room).about("What?") == ""


def test_a_paragraph_that_is_too_long_is_searched_in_parts(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    text = " ".join(f"word{n}" for n in range(200))
    notes = Paragraphs(tokenizer, [text], 50)
    assert "".join(notes.texts) == text
    assert "word150" in notes.about("Which is word150?")
    assert "word10 " not in notes.about("Which is word150?")


SEARCHES = """
import random
from dlm_trl.evaluation.open_book import Paragraphs
from dlm_trl.models.load import load_tokenizer

draw = random.Random(0)
words = [f"word{n}" for n in range(12)]
notes = Paragraphs(load_tokenizer("tiny"), [" ".join(draw.sample(words, 8)) for _ in range(40)], 60)
print([notes.texts.index(notes.about(" ".join(draw.sample(words, 8))).split("\\n\\n")[0]) for _ in range(200)])
"""


def test_equal_paragraphs_are_chosen_by_their_order_in_every_process() -> None:
    """A process iterates over sets of words in an order of its own; a run on several must not read different notes."""
    command = [sys.executable, "-c", SEARCHES]
    found = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        for seed in "12"
    ]
    assert len({run.stdout for run in found}) == 1
