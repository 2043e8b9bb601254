"""The language of prose: whether it is English (`is_english`), which other one it is (`foreign_language`), and whether
a text is in the same one (`is_same_language`).

A teacher is told to keep it by name. Asked in English to keep "the language of the text", a model of 1.5 B parameters
wrote about German prose in English.
"""

from __future__ import annotations

import re
from functools import lru_cache

import py3langid

_COMMON = frozenset({
    "and", "are", "be", "but", "by", "can", "for", "from", "has", "have", "if", "is", "it", "its", "not", "of", "that",
    "the", "this", "to", "was", "were", "when", "will", "with", "you",
})  # fmt: skip
_MIN_COMMON = 0.08  # share of a text's words
_SURE = 20  # words

# ISO 639-1, of py3langid's languages those with the most speakers, and those that models are trained on.
_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian",
    "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip

_WORD = re.compile(r"[^\W\d_]+")
_OTHER_SCRIPT = re.compile(r"[^\W\d_\u0000-\u024f]")  # a letter that isn't Latin


@lru_cache(maxsize=4)  # asked of the same prose for one pair after the other
def is_english(prose: str) -> bool:
    """Whether the prose has as many of the commonest English words as English has."""
    words = _WORD.findall(prose.lower())
    return sum(word in _COMMON for word in words) >= _MIN_COMMON * len(words) > 0


def foreign_language(prose: str) -> str | None:
    """The English name of the prose's language; None for English, and for prose that is too short to tell."""
    words = _WORD.findall(prose)
    is_in_another_script = 2 * len(_OTHER_SCRIPT.findall(prose)) > len("".join(words))
    if not is_in_another_script and (len(words) < _SURE or is_english(prose)):
        return None
    return next(_NAMES[code] for code, _ in py3langid.rank(prose) if code in _NAMES)


def is_same_language(text: str, prose: str) -> bool:
    """Whether a text may be in the prose's language; a short one may be in any that has the same letters."""
    of_prose = foreign_language(prose)
    if 2 * len(_OTHER_SCRIPT.findall(text)) > len("".join(_WORD.findall(text))):
        return of_prose is not None and foreign_language(text) == of_prose
    if of_prose is None:
        return foreign_language(text) is None
    return not is_english(text) and foreign_language(text) in (None, of_prose)
