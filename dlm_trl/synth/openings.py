"""How a question about a sentence may begin, by rule: `openings("Salt slows the yeast down.")`.

A small model imitates the form of the last example ("What happens to …?", twenty times). If the first words follow
from the sentence, it only has to finish the question: "What is a starter", "How long", "What does salt".

The rules read English (`is_english`). About other prose the teacher asks as it likes, which is the opening "".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

MAX_OPENINGS = 5
BARE = ("What does", "What")  # for every sentence that isn't an instruction
_COMMON = frozenset({
    "and", "are", "be", "but", "by", "can", "for", "from", "has", "have", "if", "is", "it", "its", "not", "of", "that",
    "the", "this", "to", "was", "were", "when", "will", "with", "you",
})  # fmt: skip
_MIN_COMMON = 0.08  # share of a text's words

_WORD = r"[\w'’-]+"
# Up to the verb of the sentence, not to that of a relative clause ("the part that is taken away is called …").
_SUBJECT = rf"(?P<subject>(?:{_WORD} ){{0,13}}?{_WORD})(?<!\bthat)(?<!\bwhich)(?<!\bwho)"
_UNITS_OF_TIME = r"(?:second|minute|hour|day|night|week|month|year)s?"
_COUNTS = r"(?:\d[\d.,]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred)"
_DETERMINER = r"(?:an?|the|its|their|no|any|every|each|some|more|less|most|little|about|only)"
_OBJECT = rf"(?:{_DETERMINER}|{_COUNTS}|\w+er)\b"

_CLAUSE = re.compile(r"(?P<word>If|When|Once|While) (?P<clause>[^,;]+), (?P<rest>.+)")
_CALLED = re.compile(rf"{_SUBJECT} (?P<verb>is|are) (?:also )?(?:called|known as|named)\b")
_DEFINED = re.compile(rf"{_SUBJECT} (?P<verb>is|are|was|were) (?:an?|the|one|any|\w+ing)\b")
_MEANS = re.compile(rf"{_SUBJECT} means? ")
_STATE = re.compile(rf"{_SUBJECT} (?P<verb>is|are|was|were|can|must|should|will|may)\b")
_ACTION = re.compile(
    rf"{_SUBJECT} (?P<verb>[a-z]{{2,}}s) "
    rf"(?:{_OBJECT}|(?P<link>(?:in|on|at|for|from|into|to|like)\b)|(?P<time>(?:when|while)\b))"
)
_TAKES = ("take", "last", "need")
_PASSIVE = re.compile(rf"{_SUBJECT} (?P<verb>is|are|was|were) (?:[a-z]+ly )?(?!called|named)[a-z]+ed\b")
_DURATION = re.compile(
    rf"\b(?<!once )(?<!twice )(?<!times )(?:{_COUNTS}|an?|half an?|a few|several) (?:\w+ )?{_UNITS_OF_TIME}\b"
)
_OFTEN = re.compile(
    rf"\b(?:every|once an?|twice an?|times an?|per) (?:\w+ )?{_UNITS_OF_TIME}\b|\b(?:daily|weekly|monthly)\b"
)
_COUNTED = re.compile(rf"\b{_COUNTS} (?P<unit>[a-z]{{3,}}s)\b")
_REASON = re.compile(r"\bbecause\b|, so\b|\bso that\b")
_PLACE = re.compile(r"\b(?:in|into|on|onto|at|under|over|behind|near|next to)\b")
_DEGREES = re.compile(r"\bdegrees\b|°")
_PRONOUN = re.compile(r"\b(?:it|its|they|their|this|these|those|he|she)\b", re.IGNORECASE)
# A subject that isn't one: it refers back, begins another clause, or contains the verb.
_NO_SUBJECT = re.compile(
    r"(?:it|they|this|these|that|those|he|she|then|there|such|here|first|next|if|when|while|after|before|once|as|in|on|"
    r"at|with|for|from|to|by|both|each|you|we|i)\b|"
    r".*(?<!\bthat )(?<!\bwhich )(?<!\bwho )\b(?:is|are|was|were|has|have|had|can|must|should|will|means?)\b",
    re.IGNORECASE,
)
_STRONG = frozenset({"always", "don't", "don’t", "never", "please"})
# A verb at the start is an instruction to the reader.
_COMMANDS = frozenset({
    "add", "allow", "apply", "ask", "avoid", "bake", "boil", "bring", "call", "change", "check", "choose", "clean",
    "click", "close", "cook", "cool", "copy", "cover", "create", "cut", "delete", "dissolve", "do", "drain", "drop",
    "dry", "enter", "feed", "fill", "find", "fold", "follow", "freeze", "give", "go", "heat", "hold", "install", "keep",
    "knead", "leave", "let", "lift", "make", "mark", "measure", "mix", "move", "open", "pick", "place", "plant",
    "plug", "pour", "press", "pull", "push", "put", "read", "remove", "replace", "rest", "rinse", "roll", "run", "save",
    "select", "send", "set", "shake", "shape", "soak", "spread", "start", "stir", "stop", "store", "switch", "take",
    "tap", "tell", "test", "tie", "try", "turn", "type", "use", "wait", "wash", "watch", "water", "wear", "wipe",
    "write",
})  # fmt: skip


def openings(sentence: str, names: frozenset[str] = frozenset()) -> list[str]:
    """Up to `MAX_OPENINGS` beginnings, the most certain first. names: words that keep their capital."""
    return list(dict.fromkeys(_openings(sentence.rstrip(".!"), names)))[:MAX_OPENINGS]


def is_english(prose: str) -> bool:
    """Whether the prose has as many of the commonest English words as English has."""
    words = re.findall(r"[^\W\d_]+", prose.lower())
    return sum(word in _COMMON for word in words) >= _MIN_COMMON * len(words) > 0


def _openings(text: str, names: frozenset[str]) -> Iterator[str]:
    inside = partial(_inside, names=names)
    if (match := _CLAUSE.match(text)) and not _PRONOUN.search(match["clause"]):
        asks = "should you do" if match["rest"].partition(" ")[0].lower() in _COMMANDS | _STRONG else "happens"
        yield f"What {asks} {match['word'].lower()} {match['clause']}"
    if match := _subject(_CALLED, text):
        yield f"What {match['verb']} {inside(match['subject'])} called"
    elif match := _subject(_DEFINED, text):
        yield f"What {match['verb']} {inside(match['subject'])}"
    if match := _subject(_MEANS, text):
        yield f"What does {inside(match['subject'])} mean"
    if _DURATION.search(text):
        yield "How long"
    if _OFTEN.search(text):
        yield "How often"
    if _DEGREES.search(text):
        yield "At what temperature"
    for match in _COUNTED.finditer(text):
        if not re.fullmatch(rf"{_UNITS_OF_TIME}|degrees", match["unit"]):
            yield f"How many {match['unit']}"
    command = text.partition(" ")[0].lower()
    if command in _COMMANDS:
        yield f"{'Where' if _PLACE.search(text) else 'How'} should you {command}"
        return
    if _REASON.search(text):
        yield "Why"
    if match := _subject(_PASSIVE, text):
        yield f"What happens to {inside(match['subject'])}"
    elif (match := _subject(_ACTION, text)) and match["verb"] not in ("is", "was", "has", "does", "goes"):
        subject, verb = inside(match["subject"]), _infinitive(match["verb"])
        if match["time"]:
            yield f"When does {subject} {verb}"
        elif verb in _TAKES and _DURATION.search(text):
            yield f"How long does {subject} {verb}"
        else:
            yield " ".join(["What does", subject, verb, *filter(None, [match["link"]])])
        yield f"What does {subject}"
    elif match := _subject(_STATE, text):
        yield f"What {match['verb']} {inside(match['subject'])}"
    yield from BARE


def _subject(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The match if it has a subject that a question can name."""
    match = pattern.match(text)
    return match if match and match["subject"] and not _NO_SUBJECT.match(match["subject"]) else None


def _inside(subject: str, names: frozenset[str]) -> str:
    """The subject as it is written inside a sentence; names and abbreviations keep their capitals."""
    first, _, rest = subject.partition(" ")
    is_name = (
        first in names
        or (not first[1:].islower() and len(first) > 1)
        or (rest[:1].isupper() and first not in ("A", "An", "The"))
    )
    return subject if is_name else subject[0].lower() + subject[1:]


def _infinitive(verb: str) -> str:
    """`makes` to `make`, `pushes` to `push`, `carries` to `carry`."""
    if verb.endswith("ies") and len(verb) > 4:
        return f"{verb[:-3]}y"
    return verb[:-2] if verb.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")) else verb[:-1]
