"""What is wrong with an answer, by its words: `problem(pair, prose, "extraction")`.

An answer has to be whole, to say something that the question doesn't, and to take its numbers from the prose.
"""

from __future__ import annotations

import re

from dlm_trl.notes.sentences import NUMBERS
from dlm_trl.synth.language import is_english
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.words import content_words, words

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_SEPARATORS = str.maketrans("", "", ".,:")
# An answer doesn't end with one of these words, or with such a sign.
_UNFINISHED = re.compile(
    r"(?:\b(?:a|an|and|as|at|because|between|but|by|for|from|if|in|into|is|its|of|or|so|than|that|the|their|to|when|"
    r"which|with|und|oder|der|die|das|dem|den|ein|eine|einer|mit|von|zu|et|ou|le|la|les|des|un|une|y|el|los|las|con)"
    r"|[,;:(–-])\s*(?:\.\.\.|…)?$"
)
_MIN_WORDS = 3  # a shorter answer may be one of two that the question offers


def problem(pair: QAPair, prose: str, strategy: Strategy) -> str | None:
    """Why the answer can't be right, or None. Numbers are compared in English prose, where those in words are known."""
    question, answer = pair
    if _UNFINISHED.search(answer.strip()):
        return "the answer is cut off"
    said = content_words(answer)
    if len(said) >= _MIN_WORDS and said <= content_words(question):
        return "the answer only repeats the question"
    if strategy == "extraction" and is_english(prose):
        known = _numbers(f"{prose} {question}") | {NUMBERS[word] for word in words(prose) if word in NUMBERS}
        if invented := sorted(_numbers(answer) - known):
            return f"the text doesn't have this number: {', '.join(invented)}"
    return None


def _numbers(text: str) -> set[str]:
    """The numbers in a text, without the separators inside them."""
    return {number.translate(_SEPARATORS) for number in _NUMBER.findall(text)}
