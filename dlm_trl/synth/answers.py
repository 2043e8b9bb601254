"""Answers, by their words: `problem(pair, prose, "extraction")` is what is wrong with one.

An answer has to be whole, to say something that the question doesn't, and to take its numbers from the prose.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from dlm_trl.asking.facts import background, facts
from dlm_trl.asking.language import is_english
from dlm_trl.asking.words import content_words, has_form, overlap, words
from dlm_trl.notes.sentences import NUMBERS
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.view_kinds import ViewKind

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_SEPARATORS = str.maketrans("", "", ".,:")
# An answer doesn't end with one of these words, or with such a sign.
_UNFINISHED = re.compile(
    r"(?:\b(?:a|an|and|as|at|because|between|but|by|for|from|if|in|into|is|its|of|or|so|than|that|the|their|to|when|"
    r"which|with|und|oder|der|die|das|dem|den|ein|eine|einer|mit|von|zu|et|ou|le|la|les|des|un|une|y|el|los|las|con)"
    r"|[,;:(–-])\s*(?:\.\.\.|…)?$"
)
_MIN_KNOWN = 0.65  # of the content words of an answer, two of three
_MIN_WORDS = 3  # a shorter answer may be one of two that the question offers


def problem(pair: QAPair, prose: str, strategy: Strategy) -> str | None:
    """Why the answer can't be right, or None. Numbers are compared in English prose, where those in words are known."""
    question, answer = pair
    if _UNFINISHED.search(answer.strip()):
        return "the answer is cut off"
    said = content_words(answer)
    if len(said) >= _MIN_WORDS and said <= content_words(question):
        return "the answer only repeats the question"
    invented = numbers(answer) - numbers(question)
    if invented and strategy == "extraction" and is_english(prose) and (invented := invented - _known_numbers(prose)):
        return f"the text doesn't have this number: {', '.join(sorted(invented))}"
    return None


def view_problem(kind: ViewKind, pair: QAPair, prose: str, about: Collection[str]) -> str | None:
    """Why the answer to a question about a fact can't be right, besides `problem`, or None.

    It takes its words from the prose and doesn't repeat those of the question. That of a reverse question names
    something in the sentence, or in those before it that its pronouns stand for.
    """
    said, asked, known = content_words(pair.answer), content_words(pair.question), content_words(prose)
    if overlap(pair.answer, prose) < _MIN_KNOWN:
        return f"not in the text: {', '.join(sorted(word for word in said if not has_form(known, word)))}"
    if all(has_form(asked, word) for word in said):
        return "the question contains the answer"
    if kind == "reverse":
        near = [text for fact in facts(prose) if fact.sentence in about for text in (background(fact), fact.sentence)]
        in_sentence = content_words(" ".join(near))
        if not any(has_form(in_sentence, word) for word in said):
            return "the answer isn't in the sentence"
    return None


@lru_cache(maxsize=4)  # the pairs of a request have the same prose
def _known_numbers(prose: str) -> frozenset[str]:
    """The numbers in a text, in digits or in words."""
    return frozenset(numbers(prose)) | {NUMBERS[word] for word in words(prose) if word in NUMBERS}


def numbers(text: str) -> set[str]:
    """The numbers written with digits in a text, without the separators inside them."""
    return {number.translate(_SEPARATORS) for number in _NUMBER.findall(text)}
