"""Which pairs say the same: `Index().add(pair, name)`, and `nearest(pair)` finds the one that a new pair repeats.

A new pair is a duplicate if its question was asked before, whatever the answer; or if both of its texts are edits of
a known pair's (at most one word in eight is another, or one word) and no more than one of them differs in a word with
content. So a reworded question with the same answer is a duplicate, while "What is the capital of France?" ("Paris.")
and "What is the capital of Spain?" ("Madrid.") are two pairs, however long the text is that they share.

By this rule a duplicate agrees with the known pair in the content of its question or of its answer. So candidates are
those with the same content in the question, and by MinHash-LSH (datasketch) those with a like question and the same
content in the answer: the features are the question's words, each marked with the answer. Pairs of one template never
meet, and the time stays linear. rapidfuzz decides.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import Indel, Levenshtein

from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.words import Words, words

if TYPE_CHECKING:
    from datasketch import MinHash

# Fewer than the stop words of `words`: those that ask (who, when) and those that relate (not, before) tell pairs apart.
_FILLERS = frozenset({
    "a", "also", "an", "and", "are", "be", "do", "does", "is", "it", "its", "just", "now", "please", "so", "that",
    "the", "then", "these", "this", "those", "well",
})  # fmt: skip
_EDITED = 8  # one word in so many may be another
# Ten bands of two rows, and eight features that all pairs of one answer share: questions of 2, 3 and 8 words with one
# word changed have a Jaccard similarity of 9/11, 10/12 and 15/17, and 2, 1 and 0.03 of 100,000 are missed.
_BANDS, _ROWS, _SHARED = 10, 2, 8


class Match(NamedTuple):
    """The known pair that another repeats: its name, how near they are (0 to 1), and what is the same but for case,
    punctuation and white space: the pair, its question, or most words."""

    name: str
    score: float
    same: Literal["pair", "question", "words"]


class _Text(NamedTuple):
    """One side of a pair: all of its words, and those with content, each word as one character of a string.

    So rapidfuzz compares words at the speed at which it compares characters.
    """

    words: str
    content: str


class _Entry(NamedTuple):
    pair: QAPair
    question: _Text
    answer: _Text


class Index:
    """The pairs that are known. The same pairs in the same order give the same matches in every process."""

    def __init__(self) -> None:
        from datasketch import MinHash, MinHashLSH

        self._empty = MinHash(num_perm=_BANDS * _ROWS)  # copied: the permutations are drawn once
        self._by_answer = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._by_question_content: defaultdict[str, list[int]] = defaultdict(list)
        self._by_question: dict[str, int] = {}
        self._by_pair: dict[tuple[_Text, ...], int] = {}
        self._entries: list[_Entry] = []
        self._names: list[str] = []
        self._characters: defaultdict[str, str] = defaultdict(lambda: chr(len(self._characters) % sys.maxunicode))
        # Whoever asks for the nearest of a pair most often adds it next.
        self._prepared = lru_cache(maxsize=1)(self._prepare)

    def add(self, pair: QAPair, name: str) -> None:
        """From now on this pair is known, by a name that says where it stands; the first of equal pairs counts."""
        entry, signature = self._prepared(pair)
        at = len(self._entries)
        self._entries.append(entry)
        self._names.append(name)
        self._by_answer.insert(at, signature, check_duplication=False)
        self._by_question_content[entry.question.content].append(at)
        self._by_question.setdefault(entry.question.words, at)
        self._by_pair.setdefault(entry[1:], at)

    def nearest(self, pair: QAPair) -> Match | None:
        """The known pair that this one repeats, the nearest if there are several; None for a new one."""
        new, signature = self._prepared(pair)
        if (equal := self._by_pair.get(new[1:])) is not None:
            return Match(self._names[equal], 1.0, "pair")
        if (asked := self._by_question.get(new.question.words)) is not None:
            return Match(self._names[asked], _score(new, self._entries[asked]), "question")
        candidates = [*self._by_answer.query(signature), *self._by_question_content.get(new.question.content, ())]
        near = self._with_near_question(new.question.words, candidates)
        # In their order, for of equally near ones it is the first that counts.
        found = sorted({at for at in near if _is_edit(new, self._entries[at])})
        matches = [Match(self._names[at], _score(new, self._entries[at]), "words") for at in found]
        return max(matches, key=lambda match: match.score, default=None)

    def _with_near_question(self, question: str, candidates: list[int]) -> list[int]:
        """Those that _near may find near; all at once, for a thousand pairs may have the same answer."""
        questions = [self._entries[at].question.words for at in candidates]
        # The other one has at most 8/7 as many words.
        limit = max(1, len(question) // (_EDITED - 1))
        near = process.extract(question, questions, scorer=Levenshtein.distance, score_cutoff=limit, limit=None)
        return [candidates[i] for _, _, i in near]

    def _prepare(self, pair: QAPair) -> tuple[_Entry, MinHash]:
        asked, answered = (words(text) for text in pair)
        entry = _Entry(pair, self._text(asked), self._text(answered))
        mark = hashlib.blake2b(" ".join(content(answered)).encode(), digest_size=8).digest()
        features = [mark + bytes([i]) for i in range(_SHARED)]
        features += [mark + word.encode() for word in set(asked)]
        signature = self._empty.copy()
        signature.update_batch(features)
        return entry, signature

    def _text(self, found: Words) -> _Text:
        return _Text(*("".join(map(self._characters.__getitem__, part)) for part in (found, content(found))))


def content(words: Words) -> Words:
    """Those of the words that are more than filling; all of them where nothing else is left."""
    return tuple(word for word in words if word not in _FILLERS) or words


def _is_edit(new: _Entry, known: _Entry) -> bool:
    if new.question.content != known.question.content and new.answer.content != known.answer.content:
        return False
    return _near(new.question.words, known.question.words) and _near(new.answer.words, known.answer.words)


def _near(a: str, b: str) -> bool:
    limit = max(1, max(len(a), len(b)) // _EDITED)
    return Levenshtein.distance(a, b, score_cutoff=limit) <= limit


def _score(new: _Entry, known: _Entry) -> float:
    a, b = (" ".join((*words(entry.pair.question), *words(entry.pair.answer))) for entry in (new, known))
    return Indel.normalized_similarity(a, b)
