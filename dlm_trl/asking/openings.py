"""How a question about a sentence may begin, by rule: `openings("Salt slows the yeast down.")`.

A small model imitates the form of the last example ("What happens to …?", twenty times). If the first words follow
from the sentence, it only has to finish the question: "What is a starter", "How long", "What does salt".

The rules read English. About other prose (`language.is_english`) the teacher asks as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from dlm_trl.asking.words import content_words
from dlm_trl.notes.sentences import NUMBERS

MAX_OPENINGS = 5
BARE = ("What does", "What")  # for every sentence that isn't an instruction
_WORD = r"[\w'’-]+"
# Up to the verb of the sentence, not to that of a relative clause ("the part that is taken away is called …").
_SUBJECT = rf"(?P<subject>(?:{_WORD} ){{0,13}}?{_WORD})(?<!\bthat)(?<!\bwhich)(?<!\bwho)"
_BE = r"(?P<verb>is|are|was|were)"
TIME = r"(?:second|minute|hour|day|night|week|month|year)s?"
_COUNT = rf"(?:\d[\d.,]*|{'|'.join(word for word in NUMBERS if word != 'one')})"
_ABOUT = r"(?:about |almost |nearly |only |at least |at most |up to |more than |less than |between [\w.,]+ and )?"
# After "in", "on" or "at": when it is, not where.
_WHEN = (
    r"(?:(?:early|late|mid|the|every|each) )*(?:\d{4}|\d+(?:st|nd|rd|th)|\d+ o['’]clock|\d\d?:\d\d|noon|midnight|night|"
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|(?:Jan|Febr)uary|March|April|May|June|July|August|(?:Sept|Nov|Dec)ember|"
    r"October|spring|summer|autumn|winter|morning|afternoon|evening|one|two|three|four|five|six|seven|eight|nine|ten|"
    r"eleven|twelve)\b"
)
_OBJECT = r"(?:an?|the|its|their|no|any|every|each|some|more|less|most|little|about|only|\w+er)\b"
_IRREGULAR = (
    "built|brought|cut|done|drawn|driven|found|given|grown|held|kept|known|laid|led|lost|made|paid|put|read|sent|set|"
    "shown|shut|sold|spent|taken|told|thrown|woken|won|worn|written"
)
_PAST = (
    "became|began|bought|brought|built|came|drew|fell|found|gave|grew|had|held|kept|led|left|lost|made|met|paid|ran|"
    "rose|said|saw|sent|sold|spent|stood|took|went|won|wound|wrote"
)
_PLURAL = (
    "bring|carry|cause|come|contain|control|give|have|help|hold|keep|make|mean|move|need|show|stop|suit|take|use|work"
)

_CLAUSE = re.compile(r"(?P<word>If|When|Once|While) (?P<clause>[^,;]+), (?P<rest>.+)")
_COMMAND = re.compile(
    r"(?:always|don['’]t|never|please)\b|"
    r"(?!(?:an?|it|its|the|their|they|this|that|you|he|she|we|one|two|all|some|no)\b)[a-z]+ "
    r"(?:an?|the|your|its|it|them|off|out|up|down|for|until|at least)\b"
)
_CALLED = re.compile(rf"{_SUBJECT} {_BE} (?:also )?(?:called|known as|named)\b")
_DEFINED = re.compile(rf"{_SUBJECT} {_BE} (?:an?|the|one|any|\w+ing)\b")
_MEANS = re.compile(rf"{_SUBJECT} means? ")
_PASSIVE = re.compile(
    rf"{_SUBJECT} {_BE} (?:[a-z]+ly )?(?P<done>(?!called|named)(?:[a-z]+ed(?: (?:off|up|out))?|{_IRREGULAR}))\b"
    rf"(?: (?:(?P<when>(?:in|on|at) {_WHEN}|when)|(?P<where>in|on|at|inside|behind|under)"
    r"|(?P<link>by|for|from|of|with))\b)?"
)
_READY = re.compile(rf"{_SUBJECT} {_BE} (?P<how>[a-z]+) (?:when|until|once|in {_WHEN})\b")
_SIZE = re.compile(rf"{_SUBJECT} {_BE} {_ABOUT}{_COUNT} \w+ (?P<size>high|long|wide|deep|old|tall|thick)\b")
_STATE = re.compile(rf"{_SUBJECT} {_BE} (?!(?:in|on|at|of|for|from|under|with|by|to|as|too)\b)")
# "A wet dough is hard to hold": what it is like, not what it is.
_LIKE = re.compile(
    rf"{_SUBJECT} {_BE} (?:very |too |quite )?(?!{_COUNT})[a-z]+(?<!ing)(?: (?:to|of|and|for|than|enough)\b|,|$)"
)
_DUTY = re.compile(rf"{_SUBJECT} (?P<verb>can|must|should|will|may) (?!be\b)")
_AMOUNT = re.compile(
    rf"{_SUBJECT} (?P<verb>[a-z]{{2,}}s) {_ABOUT}{_COUNT} (?!(?:from|for|and|per)\b)(?P<unit>[a-z]{{3,}})\b"
)
_ACTION = re.compile(
    rf"{_SUBJECT} (?P<verb>[a-z]{{2,}}s)(?P<place> place)? (?:{_OBJECT}|(?P<time>(?:in|on|at) {_WHEN}|when\b|while\b)"
    r"|(?P<link>(?:in|on|at|for|from|into|to|like)\b))"
)
_DID = re.compile(rf"{_SUBJECT} (?:[a-z]{{2,}}ed|{_PAST})\b")
_DO = re.compile(rf"{_SUBJECT}(?<=s) (?:{_PLURAL})\b")
_YEAR = re.compile(r"\bin (?:1\d|20)\d\d\b")
_LASTS = re.compile(r"\b(?:takes?|took|lasts?|lasted|needs?)\b")
_DURATION = re.compile(rf"\b(?<!once )(?<!twice )(?<!times )(?:{_COUNT}|an?|half an?|a few|several) (?:\w+ )?{TIME}\b")
_OFTEN = re.compile(rf"\b(?:every|once an?|twice an?|times an?|per) (?:\w+ )?{TIME}\b|\b(?:daily|weekly|monthly)\b")
_REASON = re.compile(r"\bbecause\b|, so\b|\bso that\b")
_PLACE = re.compile(r"\b(?:in|into|on|onto|at|under|over|behind|near|next to)\b")
_DEGREES = re.compile(r"\bdegrees\b|°")
# What says something of its subject, to be asked for the subject, and where that ends.
_SAYING = (_CALLED, _DEFINED, _SIZE, _MEANS, _PASSIVE, _ACTION, _READY, _LIKE, _STATE, _DUTY, _DO)
_NEXT_CLAUSE = re.compile(r"[;:]|, (?:so|while|whereas)\b|, (?:and|but|or) (?:it|its|they|the|an?)\b")
_MIN_SAID = 2  # content words
_POINTS_BACK = re.compile(r"\b(?:this|these|those|such|same)\b")  # "the same end", "made for this job"
_PRONOUN = re.compile(r"\b(?:it|its|they|their|this|these|those|he|she)\b", re.IGNORECASE)
# A subject that isn't one: it refers back, isn't the sentence's first part, begins another clause, or contains a verb.
_NO_SUBJECT = re.compile(
    r"(?:it|they|this|these|that|those|he|she|then|there|such|here|first|next|today|now|never|if|when|while|after|before|"
    r"once|as|in|on|at|with|for|from|to|by|both|each|you|we|i)\b|(?:an?|the)$|.*[a-z]s (?:[a-z]+ly|\d)|"
    r".*\b(?:until|because|when|while|where|if)\b|.*\b(?:and|or|but)$|"
    r".*(?<!\bthat )(?<!\bwhich )(?<!\bwho )\b(?:is|are|was|were|has|have|had|can|must|should|will|means?|kept|made)\b",
    re.IGNORECASE,
)
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
    plain = sentence.rstrip(".!").replace("*", "").replace("`", "")  # without Markdown's emphasis
    return list(dict.fromkeys(_openings(plain, names)))[:MAX_OPENINGS]


def reverse_question(sentence: str) -> tuple[str, str] | None:
    """The question that the subject of a sentence answers, and the subject: "What slows the yeast down?", "Salt."

    By rule, in English; None for a sentence whose subject isn't sure, or of which too little is left to ask.
    """
    text = sentence.rstrip(".!").replace("*", "").replace("`", "")
    if text.partition(" ")[0].lower() in _COMMANDS or _CLAUSE.match(text):
        return None
    match = next((match for pattern in _SAYING if (match := _subject(pattern, text))), None)
    if match is None:
        return None
    said = _NEXT_CLAUSE.split(text[match.end("subject") :].strip())[0]
    if len(content_words(said)) < _MIN_SAID or _POINTS_BACK.search(f"{match['subject']} {said}"):
        return None
    return f"What {said}?", f"{match['subject']}."


def _openings(text: str, names: frozenset[str]) -> Iterator[str]:
    inside = partial(_inside, names=names)
    if (match := _CLAUSE.match(text)) and not _PRONOUN.search(match["clause"]):
        is_command = _COMMAND.match(match["rest"]) or match["rest"].partition(" ")[0].lower() in _COMMANDS
        asks = "should you do" if is_command else "happens"
        yield f"What {asks} {match['word'].lower()} {match['clause']}"
    if match := _subject(_CALLED, text):
        yield f"What {match['verb']} {inside(match['subject'])} called"
    elif match := _subject(_DEFINED, text):
        yield f"What {match['verb']} {inside(match['subject'])}"
    elif match := _subject(_SIZE, text):
        yield f"How {match['size']} {match['verb']} {inside(match['subject'])}"
    if match := _subject(_MEANS, text):
        yield f"What does {inside(match['subject'])} mean"
    command = text.partition(" ")[0].lower()
    if command in _COMMANDS:
        asks = "When" if " when " in text else "Where" if _PLACE.search(text) else "How"
        yield from ["How often"] if _OFTEN.search(text) else []
        yield f"{asks} should you {command}"
        return
    if (match := _subject(_AMOUNT, text)) and not re.fullmatch(TIME, match["unit"]):
        yield f"How many {match['unit']} does {inside(match['subject'])} {_infinitive(match['verb'])}"
    if _OFTEN.search(text):
        yield "How often"
    if _DEGREES.search(text):
        yield "At what temperature"
    lasts = bool(_DURATION.search(text) and _LASTS.search(text))
    if match := _subject(_PASSIVE, text):
        yield from _about_what_is_done(match, inside(match["subject"]))
    elif (match := _subject(_ACTION, text)) and match["verb"] not in ("is", "was", "has", "does", "goes"):
        subject, verb = inside(match["subject"]), _infinitive(match["verb"])
        if match["time"]:
            yield f"When does {subject} {verb}{match['place'] or ''}"
        elif lasts and _LASTS.match(match["verb"]):
            yield f"How long does {subject} {verb}"
        else:
            yield " ".join(["What does", subject, verb, *filter(None, [match["link"]])])
        yield f"What does {subject}"
    elif match := _subject(_READY, text):
        yield f"When {match['verb']} {inside(match['subject'])} {match['how']}"
    elif match := _subject(_LIKE, text):
        yield f"What {match['verb']} {inside(match['subject'])} like"
    elif match := _subject(_STATE, text) or _subject(_DUTY, text):
        yield f"What {match['verb']} {inside(match['subject'])}"
    elif match := _subject(_DO, text):
        yield f"What do {inside(match['subject'])}"
    elif match := _subject(_DID, text):
        subject = inside(match["subject"])
        yield f"How long did {subject} last" if lasts else f"{'When' if _YEAR.search(text) else 'What'} did {subject}"
    if lasts:
        yield "How long"
    if _REASON.search(text):
        yield "Why"
    yield from BARE


def _about_what_is_done(match: re.Match[str], subject: str) -> Iterator[str]:
    """Openings for a sentence in the passive: when, where or by what it is done, and what happens to the subject."""
    if match["link"]:
        yield f"What {match['verb']} {subject} {match['done']} {match['link']}"
    elif match["when"] or match["where"]:
        yield f"{'When' if match['when'] else 'Where'} {match['verb']} {subject} {match['done']}"
    else:
        yield f"What {'happens' if match['verb'] in ('is', 'are') else 'happened'} to {subject}"


def _subject(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The match if it has a subject that a question can name."""
    match = pattern.match(text)
    return match if match and not _NO_SUBJECT.match(match["subject"]) else None


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
