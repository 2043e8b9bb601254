"""Open book: how well a model answers the questions when it has the notes in its prompt, without any training.

    open_book_recall(base, tokenizer, {"seen": questions}, prose=["A starter is …", …])      # {"seen": Recall}

Prose that fits is in the prompt as a whole, and its keys and values are computed once for all questions. Of longer
prose each question gets the paragraphs that match it best: those with most of its words, where a word counts the less
the more paragraphs have it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import tokens
from dlm_trl.evaluation.recall import Recall, RecallQuestion, answer_tokens, messages, recall_after
from dlm_trl.models.chat import encode
from dlm_trl.models.load import context_length
from dlm_trl.models.prefix import PrefixCache, common_prefix

WHOLE = 4096  # tokens of prose that are in the prompt as a whole; every answer reads them all
BEST = 512  # tokens of paragraphs for a question about longer prose: these are computed for each question anew
SEAM = "\n\n"
SLACK = 8  # tokens: texts that are joined may have a few more than each for itself


def open_book_recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Mapping[str, Sequence[RecallQuestion]],
    prose: Sequence[str],
    advance: Callable[[int], object] | None = None,
) -> dict[str, Recall]:
    """Ask every question of every group with the prose in front of it, and compare; advance as in `answer_recall`.

    prose must not hold the document's own question/answer pairs, which are the expected answers. {} for a model whose
    context has no room for prose beside the longest question. Raises as `answer_recall`.
    """
    every = [question for asked in groups.values() for question in asked]
    beside = max(len(_prompt(tokenizer, "", question)) for question in every) + answer_tokens(tokenizer, every) + SLACK
    context = context_length(model.config)
    room = WHOLE if context is None else min(WHOLE, context - beside)
    if room <= 0:
        return {}
    whole = SEAM.join(prose)
    if _length(tokenizer, whole) <= room:
        prompts = {
            group: [_prompt(tokenizer, whole, question) for question in asked] for group, asked in groups.items()
        }
        prefix = PrefixCache.of(model, common_prefix([prompt for asked in prompts.values() for prompt in asked]))
    else:
        notes = Paragraphs(tokenizer, prose, min(BEST, room))
        prompts = {group: [_prompt(tokenizer, notes.about(q[0]), q) for q in asked] for group, asked in groups.items()}
        prefix = None
    return {
        group: recall_after(model, tokenizer, prompts[group], asked, prefix, advance) for group, asked in groups.items()
    }


class Paragraphs:
    """The paragraphs of the prose, found by the words of a question; `room` is how many tokens may be found."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prose: Sequence[str], room: int) -> None:
        whole = (paragraph for text in prose for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip())
        self.texts = [piece for paragraph in whole for piece in _pieces(tokenizer, paragraph, room)]
        self.lengths = [_length(tokenizer, text + SEAM) for text in self.texts]
        self.words = [set(tokens(text)) for text in self.texts]
        self.spread = Counter(word for words in self.words for word in words)
        self.room = room

    def about(self, question: str) -> str:
        """The best ones that there is room for, in the order of the document."""
        asked = set(tokens(question))
        scores = [sum(1 / self.spread[word] for word in asked & words) for words in self.words]
        found, left = [], self.room
        for number in sorted(range(len(self.texts)), key=lambda i: -scores[i]):
            left -= self.lengths[number]
            if found and left < 0:
                break
            found.append(number)
        return SEAM.join(self.texts[number] for number in sorted(found))


def _prompt(tokenizer: PreTrainedTokenizerBase, notes: str, question: RecallQuestion) -> list[int]:
    text, _, system = question
    return encode(
        tokenizer, messages(f"Notes:{SEAM}{notes}{SEAM}Answer with the words of the notes.{SEAM}{text}", system)
    )


def _pieces(tokenizer: PreTrainedTokenizerBase, paragraph: str, room: int) -> list[str]:
    """The paragraph, or parts of it where it alone is longer than the room."""
    ids = tokenizer(paragraph, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < room:
        return [paragraph]
    return [tokenizer.decode(ids[start : start + room - 1]) for start in range(0, len(ids), room - 1)]


def _length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
