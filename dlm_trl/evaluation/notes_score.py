"""Everything that a model is asked about a document, and how it did: with closed book and with open book.

    found = score_notes(model, tokenizer, questions)                      # questions: spec.NotesQuestions
    found.shares["held-out"]["F1"], found.answers["reverse"]["What is a round loaf called?"]
    score_open_book(base, tokenizer, questions, prose)                    # the same with the notes in the prompt

Each group of questions has exact match, token F1 and fuzzy match of the answers (`recall`), and multiple choice
(`choices`); the traps have the share of inventions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.choices import ChoiceQuestion, choice_accuracies, choice_questions, rows
from dlm_trl.evaluation.inventions import inventions
from dlm_trl.evaluation.open_book import OpenBook
from dlm_trl.evaluation.progress import progress
from dlm_trl.evaluation.recall import answer_tokens, answers_after, messages, recall_after
from dlm_trl.evaluation.spec import TRAPS, NotesQuestions
from dlm_trl.models.attention import fused_attention
from dlm_trl.models.chat import encode_questions
from dlm_trl.models.prefix import PrefixCache
from dlm_trl.tasks.prompts import open_book

LEAST_TOKENS = 24  # of an answer, to see whether it abstains, even where all expected ones are short
CHOICE = "multiple choice"
INVENTIONS = "inventions"


@dataclass(frozen=True)
class Answered:
    """By group of questions: the shares by name, and the answer to each question."""

    shares: dict[str, dict[str, float]]
    answers: dict[str, dict[str, str]]


def score_notes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: NotesQuestions, show: bool = False
) -> Answered:
    """Ask the model without the notes. show: progress bars. Raises like `answer_recall`."""
    prompts = {
        group: encode_questions(tokenizer, [messages(q, system) for q, _, system in asked], [a for _, a, _ in asked])
        for group, asked in questions.every().items()
    }
    with progress("answering the questions", _count(prompts), show) as advance:
        answered = _answer(model, tokenizer, questions, prompts, None, advance)
    return _with_choices(answered, model, tokenizer, choice_groups(questions), str, show)


def score_open_book(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: NotesQuestions,
    prose: Sequence[str],
    show: bool = False,
) -> Answered | None:
    """Ask the base with the prose in its prompt; None without prose or questions, or if the context is too short.

    There is multiple choice only if the whole prose fits the prompt: otherwise every question has its own paragraphs,
    and each option would cost as much as an answer.
    """
    if not (prose and questions.every()):
        return None
    with fused_attention(base):
        book = OpenBook.of(base, tokenizer, questions.every(), prose, LEAST_TOKENS)
        if book is None:
            return None
        with progress("answering with the notes in the prompt", _count(book.prompts), show) as advance:
            answered = _answer(base, tokenizer, questions, book.prompts, book.prefix, advance)
        if book.whole is None:
            return answered
        ask = partial(open_book, book.whole)
        return _with_choices(answered, base, tokenizer, choice_groups(questions), ask, show)


def answer_limit(tokenizer: PreTrainedTokenizerBase, questions: NotesQuestions) -> int:
    """The number of tokens after which answers to all questions are cut off."""
    return max([LEAST_TOKENS, *(answer_tokens(tokenizer, asked) for asked in questions.groups.values())])


def choice_groups(questions: NotesQuestions) -> dict[str, list[ChoiceQuestion]]:
    """The questions as multiple choice, by group."""
    return choice_questions(questions.groups)


def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: NotesQuestions,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    prefix: PrefixCache | None,
    advance: Callable[[float], object],
) -> Answered:
    """The answers to all questions, and the shares of each group.

    Answers are cut off at the same length in all groups: the base often repeats the question first, which is longer
    than the short answers of some groups.
    """
    limit = answer_limit(tokenizer, questions)
    shares: dict[str, dict[str, float]] = {}
    answers: dict[str, dict[str, str]] = {}
    for group, asked in questions.groups.items():
        recall = recall_after(model, tokenizer, prompts[group], asked, prefix, advance, limit)
        shares[group] = recall.shares()
        answers[group] = {question: said for (question, *_), said in zip(asked, recall.answers, strict=True)}
    if questions.traps:
        said = answers_after(model, tokenizer, prompts[TRAPS], limit, prefix, advance)
        shares[TRAPS] = {INVENTIONS: inventions(said)["inventions"]}
        answers[TRAPS] = {question: one for (question, *_), one in zip(questions.traps, said, strict=True)}
    return Answered(shares, answers)


def _with_choices(
    answered: Answered,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Mapping[str, Sequence[ChoiceQuestion]],
    ask: Callable[[str], str],
    show: bool,
) -> Answered:
    """The same with the accuracy of multiple choice."""
    if not groups:
        return answered
    with progress("comparing four answers each", rows(groups), show) as advance:
        found = choice_accuracies(model, tokenizer, groups, ask, advance)
    more = {group: {CHOICE: choice.accuracy} for group, choice in found.items()}
    return Answered(
        {group: shares | more.get(group, {}) for group, shares in answered.shares.items()}, answered.answers
    )


def _count(prompts: Mapping[str, Sequence[object]]) -> int:
    return sum(map(len, prompts.values()))
