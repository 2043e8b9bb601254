"""Open book: how well an untrained model answers the questions with the notes in its prompt.

    book = OpenBook.of(base, tokenizer, {"seen": questions}, prose=["A starter is …", …])
    recall_after(base, tokenizer, book.prompts["seen"], questions, book.prefix)

If all prose fits, it's in the prompt, and its KV cache is computed once for all questions. Otherwise each question gets
the paragraphs that share most words with it; a word counts less the more paragraphs contain it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import tokens
from dlm_trl.evaluation.recall import RecallQuestion, answer_tokens, messages
from dlm_trl.models.chat import encode_questions
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.load import context_length
from dlm_trl.models.prefix import PrefixCache, common_prefix
from dlm_trl.tasks.prompts import open_book

MAX_PROSE = 4096  # tokens of prose to put into the prompt as a whole
MAX_PARAGRAPHS = 512  # tokens of paragraphs for each question otherwise; these can't be cached
SEPARATOR = "\n\n"
SLACK = 8  # joined texts can have a few more tokens than their parts


@dataclass(frozen=True, slots=True)
class OpenBook:
    """The prompts of each group of questions, as token ids.

    whole: the prose as one text if it's in every prompt, else None. prefix: the cached beginning of all prompts, None
    if each question has its own paragraphs.
    """

    prompts: Mapping[str, Sequence[Sequence[int]]]
    whole: str | None
    prefix: PrefixCache | None

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        groups: Mapping[str, Sequence[RecallQuestion]],
        prose: Sequence[str],
        new_tokens: int = 0,
    ) -> OpenBook | None:
        """Put the prose before each question of all groups.

        prose must not contain the document's question/answer pairs, which are the expected answers. new_tokens: room
        to leave for an answer, at least that of `answer_recall`. Returns None if the context has no room for prose
        beside the longest question.
        """
        every = [question for questions in groups.values() for question in questions]
        beside = max(len(_prompt(tokenizer, "", question)) for question in every) + SLACK
        beside += max(answer_tokens(tokenizer, every), new_tokens)
        context = context_length(model.config)
        room = MAX_PROSE if context is None else min(MAX_PROSE, context - beside)
        if room <= 0:
            return None
        whole = SEPARATOR.join(prose)
        if _length(tokenizer, whole) <= room:
            prompts = {group: [_prompt(tokenizer, whole, q) for q in questions] for group, questions in groups.items()}
            prefix = PrefixCache.of(model, common_prefix([ids for of_group in prompts.values() for ids in of_group]))
            return cls(prompts, whole, prefix)
        notes = Paragraphs(tokenizer, prose, min(MAX_PARAGRAPHS, room))
        prompts = {
            group: [_prompt(tokenizer, notes.about(q[0]), q) for q in questions] for group, questions in groups.items()
        }
        return cls(prompts, None, None)


class Paragraphs:
    """The paragraphs of the prose, searchable by the words of a question. room: the tokens that a search may return."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prose: Sequence[str], room: int) -> None:
        whole = (paragraph for text in prose for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip())
        self.texts = [piece for paragraph in whole for piece in _pieces(tokenizer, paragraph, room)]
        self.lengths = [_length(tokenizer, text + SEPARATOR) for text in self.texts]
        self.words = [set(tokens(text)) for text in self.texts]
        self.paragraphs_with = Counter(word for words in self.words for word in words)
        self.room = room

    def about(self, question: str) -> str:
        """The best paragraphs that there is room for, in the order of the document."""
        asked = set(tokens(question))
        # A plain sum depends on the order of the words, which differs between processes, and so would equal scores.
        scores = [math.fsum(1 / self.paragraphs_with[word] for word in asked & words) for words in self.words]
        chosen: list[int] = []
        left = self.room
        for number in sorted(range(len(self.texts)), key=lambda i: -scores[i]):
            left -= self.lengths[number]
            if chosen and left < 0:
                break
            chosen.append(number)
        return SEPARATOR.join(self.texts[number] for number in sorted(chosen))


def _prompt(tokenizer: PreTrainedTokenizerBase, notes: str, question: RecallQuestion) -> list[int]:
    text, answer, system = question
    return encode_questions(tokenizer, [messages(open_book(notes, text), system)], [answer])[0]


def _pieces(tokenizer: PreTrainedTokenizerBase, paragraph: str, room: int) -> list[str]:
    """The paragraph, or its parts if it's longer than the room."""
    ids = encode_text(tokenizer, paragraph)
    if len(ids) < room:
        return [paragraph]
    return [tokenizer.decode(ids[start : start + room - 1]) for start in range(0, len(ids), room - 1)]


def _length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(encode_text(tokenizer, text))
