"""Compare answers with the expected ones: exact match and token F1, as in SQuAD.

    exact_match("The gas!", "gas"), token_f1("gas of the yeast", "the gas that the yeast makes")

Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (EMNLP 2016), section 6.1: letter case,
punctuation, English articles and white space don't count. This covers the punctuation of all scripts; in scripts
without spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer) each character is a token, as in CMRC 2018 and MLQA.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNSPACED = (  # ranges of characters
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana and iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def normalize(text: str) -> str:
    """The text in lower case, without punctuation, articles and extra white space.

    A text that would become empty ("A.", "+") keeps its articles or punctuation, so that these answers can differ too.
    """
    lower = text.lower()
    bare = "".join(c for c in lower if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    kept = (" ".join(form.split()) for form in (_ARTICLES.sub(" ", bare), bare, lower))
    return next(filter(None, kept), "")


def tokens(text: str) -> list[str]:
    """The words of the normalised text, or its characters in scripts without spaces."""
    return _TOKEN.findall(normalize(text))


def exact_match(prediction: str, reference: str) -> bool:
    """Whether both texts are equal after normalisation."""
    return normalize(prediction) == normalize(reference)


def token_f1(prediction: str, reference: str) -> float:
    """F1 from 0 to 1 over the multisets of tokens: 1 for the same tokens in any order, 0 if they share none."""
    return _f1(Counter(tokens(prediction)), Counter(tokens(reference)))


def answer_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """exact_match and f1, averaged over all answers, from 0 to 1 (SQuAD's script multiplies by 100).

    One reference for each prediction. Raises ValueError for empty lists and for lists of different lengths.
    """
    if not references:
        raise ValueError("no answers to score")
    pairs = list(zip(predictions, references, strict=True))
    return {
        "exact_match": fmean(exact_match(prediction, reference) for prediction, reference in pairs),
        "f1": fmean(token_f1(prediction, reference) for prediction, reference in pairs),
    }


def chance_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """The mean token F1 of the predictions with the references of other questions; 0 for a single question.

    This part of the F1 comes from words that all answers share, not from knowledge.
    """
    predicted, expected = ([Counter(tokens(text)) for text in texts] for texts in (predictions, references))
    others = [_f1(one, other) for i, one in enumerate(predicted) for j, other in enumerate(expected) if i != j]
    return fmean(others) if others else 0.0


def _f1(prediction: Counter[str], reference: Counter[str]) -> float:
    total = prediction.total() + reference.total()
    return 2 * (prediction & reference).total() / total if total else 1.0
