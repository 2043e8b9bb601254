"""What the base reads for each pair in context distillation: the question, after the notes that answer it.

contexts = pair_contexts(rows.pairs, rows.book, tokenizer)
Distillation("kl", contexts).attach(trainer)
"""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.open_book import Paragraphs
from dlm_trl.models.chat import split_answers
from dlm_trl.tasks.prompts import open_book

NOTES = 256  # tokens of notes before a question; the base copes better with few paragraphs


def pair_contexts(
    pairs: Dataset, prose: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> dict[tuple[int, ...], list[int]]:
    """For the tokens of each pair, as `models.tokenize` makes them: the tokens that the base reads before its answer.

    pairs: rows with prompt and completion. prose: all of the notes' prose; a pair gets the paragraphs that share most
    words with its question and answer. Raises ChatTemplateError as `tokenize` does.
    """
    notes = Paragraphs(tokenizer, prose, NOTES)
    closed = [prompt + answer for prompt, answer in zip(pairs["prompt"], pairs["completion"], strict=True)]
    opened = [_opened(conversation, notes) for conversation in closed]
    places = [f"{file}:{line}" for file, line in zip(pairs["source_file"], pairs["line"], strict=True)]
    return {
        tuple(ids): context[:start]
        for (ids, _), (context, start) in zip(
            split_answers(tokenizer, closed, places), split_answers(tokenizer, opened, places), strict=True
        )
    }


def _opened(conversation: list[dict[str, str]], notes: Paragraphs) -> list[dict[str, str]]:
    """The conversation with the notes in its question."""
    *before, question, answer = conversation
    about = notes.about(f"{question['content']} {answer['content']}")
    return [*before, {**question, "content": open_book(about, question["content"])}, answer]
