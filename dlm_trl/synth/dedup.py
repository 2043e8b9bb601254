"""Near-duplicate pairs: `Index().add(pair, name)`, then `nearest(pair)` finds the known pair that a new one repeats.

A new pair is a duplicate if its question is known, whatever its answer. It is also one if both of its texts are edits
of a known pair's texts (at most one word in eight differs, or one word) and a content word differs in at most one of
the two. So a reworded question with the same answer is a duplicate, while "What is the capital of France?" ("Paris.")
and "What is the capital of Spain?" ("Madrid.") are different pairs, no matter how much text they share.

This rule means that a duplicate has the same content words as the known pair in its question or in its answer. The
candidates are therefore the pairs with the same content words in the question, and, by MinHash-LSH (datasketch), those
with a similar question and the same content words in the answer: the LSH features are the question's words, each
prefixed with a hash of the answer. Pairs from one template don't collide, so the time stays linear. rapidfuzz decides.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import Indel, Levenshtein

from dlm_trl.asking.words import Words, words
from dlm_trl.synth.pairs import QAPair

if TYPE_CHECKING:
    from datasketch import MinHash

# Fewer than STOP_WORDS in `words`: question words (who, when) and words such as "not" or "before" change the meaning.
_FILLERS = frozenset({
    "a", "also", "an", "and", "are", "be", "do", "does", "is", "it", "its", "just", "now", "please", "so", "that",
    "the", "then", "these", "this", "those", "well",
})  # fmt: skip
_WORDS_PER_EDIT = 8  # one word in this many may differ
# LSH with ten bands of two rows, and eight features shared by all pairs with the same answer. Questions of 2, 3 and 8
# words with one word changed then have a Jaccard similarity of 9/11, 10/12 and 15/17; of 100,000 of them 2, 1 and 0.03
# are missed.
_BANDS, _ROWS, _SHARED = 10, 2, 8


class Match(NamedTuple):
    """The known pair that a new one repeats.

    score: similarity, 0 to 1. same: what is equal apart from case, punctuation and white space: the whole pair, only
    its question, or most of the words.
    """

    name: str
    score: float
    same: Literal["pair", "question", "words"]


class _Text(NamedTuple):
    """A question or an answer: all its words, and its content words, each word encoded as one character.

    This lets rapidfuzz compare words as fast as it compares characters.
    """

    words: str
    content: str


class _Entry(NamedTuple):
    pair: QAPair
    question: _Text
    answer: _Text


class Index:
    """The known pairs. The same pairs added in the same order give the same matches in every process."""

    def __init__(self) -> None:
        from datasketch import MinHash, MinHashLSH

        self._empty = MinHash(num_perm=_BANDS * _ROWS)  # copied, because drawing the permutations is slow
        self._by_answer = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._by_question_content: defaultdict[str, list[int]] = defaultdict(list)
        self._by_question: dict[str, int] = {}
        self._by_pair: dict[tuple[_Text, _Text], int] = {}
        self._entries: list[_Entry] = []
        self._names: list[str] = []
        self._characters: defaultdict[str, str] = defaultdict(lambda: chr(len(self._characters) % sys.maxunicode))
        # A pair that was just looked up is usually added next.
        self._prepared = lru_cache(maxsize=1)(self._prepare)

    def add(self, pair: QAPair, name: str) -> None:
        """Add a pair under a name that tells the user where it is. Of equal pairs, the first one is reported."""
        entry, signature = self._prepared(pair)
        position = len(self._entries)
        self._entries.append(entry)
        self._names.append(name)
        self._by_answer.insert(position, signature, check_duplication=False)
        self._by_question_content[entry.question.content].append(position)
        self._by_question.setdefault(entry.question.words, position)
        self._by_pair.setdefault((entry.question, entry.answer), position)

    def nearest(self, pair: QAPair) -> Match | None:
        """The most similar known pair that this one repeats, or None if it is new."""
        new, signature = self._prepared(pair)
        if (equal := self._by_pair.get((new.question, new.answer))) is not None:
            return Match(self._names[equal], 1.0, "pair")
        if (same_question := self._by_question.get(new.question.words)) is not None:
            return Match(self._names[same_question], _score(new, self._entries[same_question]), "question")
        candidates = [*self._by_answer.query(signature), *self._by_question_content.get(new.question.content, ())]
        similar = self._with_similar_question(new.question.words, candidates)
        # Sorted, because of equally similar pairs the first one is reported.
        edits = sorted({i for i in similar if _is_edit(new, self._entries[i])})
        matches = [Match(self._names[i], _score(new, self._entries[i]), "words") for i in edits]
        return max(matches, key=lambda match: match.score, default=None)

    def _with_similar_question(self, question: str, candidates: list[int]) -> list[int]:
        """The candidates that `_is_similar` could accept, in one call: a thousand pairs may share an answer."""
        questions = [self._entries[i].question.words for i in candidates]
        # The known question has at most 8/7 as many words.
        limit = max(1, len(question) // (_WORDS_PER_EDIT - 1))
        similar = process.extract(question, questions, scorer=Levenshtein.distance, score_cutoff=limit, limit=None)
        return [candidates[i] for _, _, i in similar]

    def _prepare(self, pair: QAPair) -> tuple[_Entry, MinHash]:
        question_words, answer_words = (words(text) for text in pair)
        entry = _Entry(pair, self._text(question_words), self._text(answer_words))
        answer_hash = hashlib.blake2b(" ".join(content(answer_words)).encode(), digest_size=8).digest()
        features = [answer_hash + bytes([i]) for i in range(_SHARED)]
        features += [answer_hash + word.encode() for word in set(question_words)]
        signature = self._empty.copy()
        signature.update_batch(features)
        return entry, signature

    def _text(self, words: Words) -> _Text:
        return _Text(self._encoded(words), self._encoded(content(words)))

    def _encoded(self, words: Words) -> str:
        return "".join(self._characters[word] for word in words)


def content(words: Words) -> Words:
    """The words without fillers; all of them if there are only fillers."""
    return tuple(word for word in words if word not in _FILLERS) or words


def _is_edit(new: _Entry, known: _Entry) -> bool:
    if new.question.content != known.question.content and new.answer.content != known.answer.content:
        return False
    return _is_similar(new.question.words, known.question.words) and _is_similar(new.answer.words, known.answer.words)


def _is_similar(a: str, b: str) -> bool:
    limit = max(1, max(len(a), len(b)) // _WORDS_PER_EDIT)
    return Levenshtein.distance(a, b, score_cutoff=limit) <= limit


def _score(new: _Entry, known: _Entry) -> float:
    a, b = (" ".join((*words(entry.pair.question), *words(entry.pair.answer))) for entry in (new, known))
    return Indel.normalized_similarity(a, b)
