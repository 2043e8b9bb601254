"""How close an answer is to the expected one: exact match and token F1, as SQuAD scores them.

    exact_match("The gas!", "gas"), token_f1("gas of the yeast", "the gas that the yeast makes")

Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (EMNLP 2016), section 6.1: letter case,
punctuation, English articles and white space don't count. Punctuation is that of all scripts, and in scripts written
without spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer) every character is a token, as in CMRC 2018 and MLQA.
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
    """The text in lower case without punctuation, articles and superfluous white space.

    What nothing would be left of ("A.", "+") keeps its articles, or else its punctuation: such answers differ too.
    """
    lower = text.lower()
    bare = "".join(c for c in lower if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    kept = (" ".join(form.split()) for form in (_ARTICLES.sub(" ", bare), bare, lower))
    return next(filter(None, kept), "")


def tokens(text: str) -> list[str]:
    """The words of the normalised text; in scripts without spaces, its characters."""
    return _TOKEN.findall(normalize(text))


def exact_match(prediction: str, reference: str) -> bool:
    """Whether both texts are the same once normalised."""
    return normalize(prediction) == normalize(reference)


def token_f1(prediction: str, reference: str) -> float:
    """F1 of 0 to 1 over the multisets of tokens: 1 for the same tokens in any order, 0 for none in common."""
    return _f1(Counter(tokens(prediction)), Counter(tokens(reference)))


def answer_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """exact_match and f1: means over all answers, as shares of 0 to 1 (SQuAD's own script multiplies by 100).

    One reference for each prediction. Raises ValueError for no answers, and for lists of different lengths.
    """
    if not references:
        raise ValueError("no answers: a share of nothing is not a number")
    pairs = list(zip(predictions, references, strict=True))
    return {
        "exact_match": fmean(exact_match(said, wanted) for said, wanted in pairs),
        "f1": fmean(token_f1(said, wanted) for said, wanted in pairs),
    }


def chance_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """The mean token F1 that the same predictions reach with the references of the other questions; 0 for a single one.

    So much comes from words that all answers share, and says nothing about what is known.
    """
    said, wanted = ([Counter(tokens(text)) for text in texts] for texts in (predictions, references))
    others = [_f1(one, other) for i, one in enumerate(said) for j, other in enumerate(wanted) if i != j]
    return fmean(others) if others else 0.0


def _f1(prediction: Counter[str], reference: Counter[str]) -> float:
    both = prediction.total() + reference.total()
    return 2 * (prediction & reference).total() / both if both else 1.0
