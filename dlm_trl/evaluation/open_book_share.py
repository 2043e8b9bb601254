"""How much of what the notes in the prompt give a base does the trained model answer without them?

    found = open_book_share(after=["a week"], open_book=["About a week."], expected=["About a week."])
    found.share, found.low, found.high

It's meant for questions that nothing trained. The F1 of words that all answers share counts on both sides, so compare
the share after training with the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from dlm_trl.evaluation.answers import token_f1

RESAMPLES = 10_000
LEAST_OPEN_BOOK = 0.05  # F1 below which a ratio says nothing
POOR = 0.3  # F1 below which an open book is called poor
LEAST_QUESTIONS = 6  # fewer give no interval


@dataclass(frozen=True, slots=True)
class OpenBookShare:
    """share: F1 of the model / F1 of the open book, above 1 if the model answers better; low, high: its 95 % interval.

    Both F1 are means over the questions. Without a share, `missing` says why.
    """

    share: float | None
    low: float | None
    high: float | None
    f1: float
    open_book_f1: float
    questions: int
    missing: str | None = None

    def note(self) -> str:
        """What the share means, in a sentence or two."""
        compared = f"F1 {self.f1:.1%} against {self.open_book_f1:.1%} with the notes in the base's prompt"
        if self.missing:
            return f"no ratio, since {self.missing} ({compared}): this base can't use notes in its prompt."
        poor = " The open book itself is poor, so a high share doesn't mean much." if self.open_book_f1 < POOR else ""
        return f"{compared}, {self.questions} questions.{poor}"


def open_book_share(
    after: Sequence[str], open_book: Sequence[str], expected: Sequence[str], seed: int = 0
) -> OpenBookShare:
    """Compare two sets of answers to the same questions: the model's, and the base's with the notes in its prompt.

    The interval is a paired percentile bootstrap over the questions (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapter 13), the same for the same seed. There is no share if the open book's F1 is below
    LEAST_OPEN_BOOK, or may be by its own interval: then the base can't read the notes, and a ratio would be noise.
    Raises ValueError for no questions and for lists of different lengths.
    """
    if not expected:
        raise ValueError("no answers to score")
    pairs = zip(after, open_book, expected, strict=True)
    scores = numpy.array([(token_f1(one, right), token_f1(other, right)) for one, other, right in pairs])
    f1, open_book_f1 = (float(mean) for mean in scores.mean(axis=0))
    if open_book_f1 < LEAST_OPEN_BOOK:
        return OpenBookShare(None, None, None, f1, open_book_f1, len(expected), "the open book's F1 is near 0")
    if len(expected) < LEAST_QUESTIONS:
        return OpenBookShare(f1 / open_book_f1, None, None, f1, open_book_f1, len(expected))
    drawn = numpy.random.default_rng(seed).integers(len(scores), size=(RESAMPLES, len(scores)))
    means = scores[drawn].mean(axis=1)
    if numpy.quantile(means[:, 1], 0.025) < LEAST_OPEN_BOOK:
        return OpenBookShare(None, None, None, f1, open_book_f1, len(expected), "the open book's F1 may be near 0")
    ratios = means[:, 0] / numpy.maximum(means[:, 1], LEAST_OPEN_BOOK)  # smaller ones are rare by now
    low, high = numpy.quantile(ratios, (0.025, 0.975))
    return OpenBookShare(f1 / open_book_f1, float(low), float(high), f1, open_book_f1, len(expected))
