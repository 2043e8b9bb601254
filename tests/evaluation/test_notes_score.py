"""All scores about a document, with closed book and open book, on a base with random weights."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
from pydantic import TypeAdapter
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation import notes_score
from dlm_trl.evaluation.answers import answer_scores
from dlm_trl.evaluation.choices import choice_accuracies
from dlm_trl.evaluation.inventions import ABSTENTION
from dlm_trl.evaluation.notes_score import Answered, choice_groups, score_notes, score_open_book
from dlm_trl.evaluation.recall import answer_recall
from dlm_trl.evaluation.spec import NotesQuestions

PROSE = ["A starter is a mix of flour and water.", "The crust is the outside of a loaf."]
QUESTIONS = NotesQuestions(
    {
        "seen": [("What is the crust?", "The outside.", None), ("What is kneading?", "Folding a dough.", None)],
        "reverse": [("What is the outside called?", "The crust.", "Be brief."), ("What rises?", "A dough.", None)],
    },
    traps=[("Who baked the first loaf?", ABSTENTION, None), ("How tall is the oven?", ABSTENTION, None)],
)


def test_every_group_has_its_shares_and_the_traps_have_inventions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    found = score_notes(model, tokenizer, QUESTIONS)
    for group, asked in QUESTIONS.groups.items():
        chosen = choice_accuracies(model, tokenizer, choice_groups(QUESTIONS))[group]
        assert found.shares[group]["multiple choice"] == chosen.accuracy
        said = list(found.answers[group].values())
        scores = answer_scores(said, [answer for _, answer, _ in asked])
        assert (found.shares[group]["exact match"], found.shares[group]["F1"]) == tuple(scores.values())
        alone = answer_recall(model, tokenizer, asked).answers
        assert all(one.startswith(cut) for one, cut in zip(said, alone, strict=True))
        assert sum(map(len, said)) > sum(map(len, alone)), "cut off later, at the same length in every group"
    assert set(found.answers["traps"]) == {"Who baked the first loaf?", "How tall is the oven?"}
    assert found.shares["traps"] == {"inventions": 1.0}, "random weights don't abstain"
    assert TypeAdapter(Answered).validate_json(json.dumps(asdict(found))) == found


def test_the_open_book_has_the_same_groups_and_other_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    closed, opened = score_notes(model, tokenizer, QUESTIONS), score_open_book(model, tokenizer, QUESTIONS, PROSE)
    assert {group: shares.keys() for group, shares in opened.shares.items()} == {
        group: shares.keys() for group, shares in closed.shares.items()
    }
    assert opened.answers != closed.answers
    long = ["Nothing to see in this paragraph, and in no other one."] * 200
    searched = score_open_book(model, tokenizer, QUESTIONS, [*long, *PROSE])
    assert "multiple choice" not in searched.shares["seen"] and "F1" in searched.shares["seen"]


def test_without_questions_prose_or_room_there_is_no_open_book(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert score_open_book(model, tokenizer, QUESTIONS, []) is None
    assert score_open_book(model, tokenizer, NotesQuestions(), PROSE) is None
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2)
    assert score_open_book(GPT2LMHeadModel(config), tokenizer, QUESTIONS, PROSE) is None
    assert score_notes(model, tokenizer, NotesQuestions()) == Answered({}, {})


def test_traps_alone_can_be_asked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    alone = replace(QUESTIONS, groups={})
    assert score_notes(model, tokenizer, alone).shares == {"traps": {"inventions": 1.0}}
    assert score_open_book(model, tokenizer, alone, PROSE).shares == {"traps": {"inventions": 1.0}}


def test_the_progress_bars_end_at_their_totals(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[str, float, list[float]]] = []

    @contextmanager
    def progress(label: str, total: float, show: bool) -> Iterator[Callable[[float], None]]:
        bars.append((label, total, []))
        yield bars[-1][2].append

    monkeypatch.setattr(notes_score, "progress", progress)
    score_notes(model, tokenizer, QUESTIONS)
    score_open_book(model, tokenizer, QUESTIONS, PROSE)
    assert len(bars) == 4
    for label, total, done in bars:
        assert sum(done) == total > 0, label
