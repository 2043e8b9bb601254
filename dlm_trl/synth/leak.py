"""Keep synthesised questions from repeating validation rows, which would inflate the validation metrics.

    check = LeakCheck(validation_questions(document, VALIDATION_FRACTION, seed))
    if repeated := check.leaks(question): …             # the validation row's question

Contamination is usually measured by a long shared n-gram: 13 words for GPT-3 (Brown et al. 2020, appendix C), 8 or 10
in later reports. Most questions are shorter than that, and questions from one template share most of their n-grams
although they ask different things. So a question leaks if it contains *every* non-filler word of a validation question,
at least half of its bigrams of such words (so the order is similar), and at most twice as many words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from dlm_trl.asking.words import Words, words
from dlm_trl.notes import Document
from dlm_trl.synth.dedup import content

_MIN_SHARED_BIGRAMS = 0.5
_MAX_LENGTH_RATIO = 2.0  # to the row's question, in words


class LeakCheck:
    """Compares questions with those of the validation rows."""

    def __init__(self, questions: Iterable[str]) -> None:
        rows = [(question, content(words(question))) for question in dict.fromkeys(questions)]
        frequency = Counter(word for _, row in rows for word in set(row))
        # Each row is indexed by its rarest word, so a question is compared with few rows.
        self._rows: defaultdict[str, list[tuple[str, Words]]] = defaultdict(list)
        for question, row in rows:
            self._rows[min(row, key=lambda word: (frequency[word], word))].append((question, row))

    def leaks(self, question: str) -> str | None:
        """The validation question that this one repeats, or None."""
        candidate = content(words(question))
        for word in dict.fromkeys(candidate):
            for repeated, row in self._rows.get(word, ()):
                if _repeats(candidate, row):
                    return repeated
        return None


def validation_questions(document: Document, fraction: float, seed: int) -> list[str]:
    """The questions of the document's own pairs that `rows.split.split` holds out with this fraction and seed.

    Raises DlmError (InstructionParseError) for a malformed instruction section.
    """
    from dlm_trl.rows.convert import convert
    from dlm_trl.rows.split import in_validation

    rows = convert(document, "sft")
    return [row["prompt"][-1]["content"] for row in rows if in_validation(row["source_group"], fraction, seed)]


def _repeats(candidate: Words, row: Words) -> bool:
    if len(candidate) > _MAX_LENGTH_RATIO * len(row) or Counter(row) - Counter(candidate):
        return False
    bigrams = {*pairwise(row)}
    return len(bigrams & {*pairwise(candidate)}) >= _MIN_SHARED_BIGRAMS * len(bigrams)
