"""No synthesised question may repeat a validation row, or the validation numbers would tell of what was learned.

    check = LeakCheck(validation_questions(document, VALIDATION_FRACTION, seed))
    if repeated := check.leaks(question): …             # the row's question

The usual measure is a long n-gram that two texts share: 13 words for GPT-3 (Brown et al. 2020, appendix C), 8 or 10 in
reports since. Most questions are shorter than that, and those of one template share most of their n-grams while they
ask for different things. So a question leaks if it holds *every* word of a row's question that is more than filling, at
least half of its bigrams (n-grams of two such words), so that their order is much the same, and not more than as many
other words again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from dlm_trl.notes import Document
from dlm_trl.synth.dedup import content
from dlm_trl.synth.words import Words, words

_LEAST_BIGRAMS = 0.5
_MOST_WORDS = 2.0  # times those of the row's question


class LeakCheck:
    """Knows the questions of the validation rows."""

    def __init__(self, questions: Iterable[str]) -> None:
        rows = [(question, content(words(question))) for question in dict.fromkeys(questions)]
        frequency = Counter(word for _, row in rows for word in set(row))
        # A row is filed under its rarest word, so that a question is compared with few rows.
        self._rows: defaultdict[str, list[tuple[str, Words]]] = defaultdict(list)
        for question, row in rows:
            self._rows[min(row, key=lambda word: (frequency[word], word))].append((question, row))

    def leaks(self, question: str) -> str | None:
        """The question of a validation row that this one repeats; None where there is none."""
        asked = content(words(question))
        for word in dict.fromkeys(asked):
            for repeated, row in self._rows.get(word, ()):
                if _repeats(asked, row):
                    return repeated
        return None


def validation_questions(document: Document, fraction: float, seed: int) -> list[str]:
    """The questions of the document's pairs that `rows.split.split` holds out with this fraction and seed.

    Raises DlmError for an instruction section that does not keep to its grammar.
    """
    from dlm_trl.rows.convert import convert
    from dlm_trl.rows.split import in_validation

    rows = convert(document, "sft")
    return [row["prompt"][-1]["content"] for row in rows if in_validation(row["source_group"], fraction, seed)]


def _repeats(asked: Words, row: Words) -> bool:
    if len(asked) > _MOST_WORDS * len(row) or Counter(row) - Counter(asked):
        return False
    bigrams = {*pairwise(row)}
    return len(bigrams & {*pairwise(asked)}) >= _LEAST_BIGRAMS * len(bigrams)
