"""Which sentences a pair asks about, by its words: `Matcher(facts(prose)).match("How long …?", "An hour.")`.

A pair asks about the sentence with most of its words, where a rare word counts more than a common one (inverse document
frequency), so that no language needs a list of stop words. The rest of an answer may be in sentences nearby: "Oxalic
acid and formic acid." is about two.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from typing import NamedTuple

from dlm_trl.asking.facts import NEIGHBOURS, Fact
from dlm_trl.asking.questions import OF_QUESTIONS
from dlm_trl.asking.words import content_words, forms

# Shares of words, by weight; tests/data/coverage.jsonl has pairs with their sentences, by hand.
_MIN_SHARE = 0.4  # of the pair's words that are in its sentences
_MIN_MORE = 0.3  # of the answer's words that are only in one more sentence
_REFERRED_TO = 0.5  # what a word counts that is in a sentence before, to which this one refers


class _Word(NamedTuple):
    """The sentences with a word in any form, those that refer to one with it, and how much the word counts."""

    inside: frozenset[int]
    referred: frozenset[int]
    weight: float

    def value(self, sentences: Set[int]) -> float:
        """What the word counts as in these sentences together."""
        if self.inside & sentences:
            return self.weight
        return _REFERRED_TO * self.weight if self.referred & sentences else 0.0


class _Index(NamedTuple):
    """For each word the sentences with it, and those that refer to one with it; all words in order."""

    inside: Mapping[str, Set[int]]
    referred: Mapping[str, Set[int]]
    vocabulary: Sequence[str]


class Matcher:
    """Finds the sentences that a pair asks about."""

    def __init__(self, found: Sequence[Fact]) -> None:
        self._facts = found
        self._known: dict[str, _Word] = {}

    @cached_property
    def _index(self) -> _Index:
        """Made for the first pair: most pairs know what they ask about, and a document has thousands of sentences."""
        inside, referred = defaultdict[str, set[int]](set), defaultdict[str, set[int]](set)
        for i, fact in enumerate(self._facts):
            for word in content_words(fact.sentence):
                inside[word].add(i)
            if fact.context != fact.sentence:
                for word in content_words(fact.context):
                    referred[word].add(i)
        return _Index(inside, referred, sorted(inside.keys() | referred.keys()))

    def match(self, question: str, answer: str, among: range | None = None) -> list[Fact]:
        """The sentences that this pair asks about, the likeliest first; mostly one or none.

        among: the indices of those to choose from; default: all.
        """
        answered = self._look_up(content_words(answer))
        pair = self._look_up(content_words(answer) | (content_words(question) - OF_QUESTIONS))
        allowed = range(len(self._facts)) if among is None else among
        best = _best(pair, allowed)
        if best is None:
            return []
        matched = [best]
        rest = [word for word in answered if best not in word.inside | word.referred]
        nearby = [i for i in self._nearby(best) if i in allowed]
        while nearby:
            gains = {i: sum(word.weight for word in rest if i in word.inside) for i in nearby}
            more = max(nearby, key=lambda i: (gains[i], -i))
            if gains[more] < _MIN_MORE * sum(word.weight for word in answered) or not gains[more]:
                break
            matched.append(more)
            rest = [word for word in rest if more not in word.inside]
        return [self._facts[i] for i in matched] if _share(pair, frozenset(matched)) >= _MIN_SHARE else []

    def _nearby(self, i: int) -> list[int]:
        around = range(max(0, i - NEIGHBOURS), min(len(self._facts), i + NEIGHBOURS + 1))
        return [k for k in around if k != i and self._facts[k].sentence in self._facts[i].nearby]

    def _look_up(self, words: Iterable[str]) -> list[_Word]:
        return [self._known.get(word) or self._known.setdefault(word, self._found(word)) for word in sorted(words)]

    def _found(self, word: str) -> _Word:
        index = self._index
        same = list(forms(index.vocabulary, word))
        inside = frozenset[int]().union(*(index.inside.get(form, ()) for form in same))
        referred = frozenset[int]().union(*(index.referred.get(form, ()) for form in same)) - inside
        return _Word(inside, referred, math.log(1 + len(self._facts) / max(1, len(inside))))


def _best(pair: Sequence[_Word], allowed: range) -> int | None:
    """The sentence with most of the pair's words, by weight; the first of several."""
    scores: dict[int, float] = {}
    rest = sum(word.weight for word in pair)
    for word in sorted(pair, key=lambda word: -word.weight):
        # Common words are in thousands of sentences of a long document: skip those that can't win any more.
        can_win = rest >= max(scores.values(), default=0.0)
        for i in word.inside | word.referred if can_win else list(scores):
            if i in allowed:
                scores[i] = scores.get(i, 0.0) + word.value(frozenset((i,)))
        rest -= word.weight
    return min(scores, key=lambda i: (-scores[i], i), default=None)


def _share(pair: Sequence[_Word], matched: frozenset[int]) -> float:
    """The share of the pair's words, by weight, that are in these sentences."""
    return sum(word.value(matched) for word in pair) / sum(word.weight for word in pair)
