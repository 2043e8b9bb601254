"""Pairs that repeat the request instead of asking about the prose: `EchoCheck(template).echoes(pair, prose)`.

Small models that are asked for "question and answer pairs that go beyond the text" ask "What is a question and answer
pair that goes beyond the text?". A duplicate check doesn't find such pairs, and a judge finds them likely.
"""

from __future__ import annotations

from dlm_trl.asking.questions import OF_QUESTIONS
from dlm_trl.asking.words import content_words, words
from dlm_trl.synth.pairs import QAPair

_MIN_WORDS = 2  # "about" alone may occur in any question
_MAX_SHARE = 0.5  # of a question's content words that occur in the request, but not in the prose


class EchoCheck:
    """Compares pairs with a prompt's template, of which the prose isn't a part."""

    def __init__(self, template: str) -> None:
        self._request = content_words(template) - OF_QUESTIONS

    def echoes(self, pair: QAPair, prose: str) -> str | None:
        """What the pair repeats, or None."""
        asked = content_words(pair.question) - OF_QUESTIONS
        repeated = (asked & self._request) - content_words(prose)
        if len(repeated) >= _MIN_WORDS and len(repeated) > _MAX_SHARE * len(asked):
            return f"the question repeats the request: {', '.join(sorted(repeated))}"
        question, answer = words(pair.question), words(pair.answer)
        starts = range(len(answer) - len(question) + 1)
        if any(answer[i : i + len(question)] == question for i in starts):
            return "the answer repeats the question"
        return None
