"""Questions whose answer is known: the best of several (`best`), and what is wrong with one, by its words (`problem`).

A question has to be understood without the text, to be about its fact, and to leave something to answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from itertools import pairwise

from dlm_trl.asking.facts import Fact
from dlm_trl.asking.openings import BARE, TIME
from dlm_trl.asking.words import STOP_WORDS, content_words, has_form, words

MAX_WORDS = 24
_BY_RULE = 2  # the highest certainty
# Shares of the question's words that occur in the fact with its context, and in the sentence itself.
_MIN_OWN = 0.75
_MIN_ITSELF = 0.34
# Words that a question may add. The others have to be the text's.
OF_QUESTIONS = STOP_WORDS | frozenset({
    "after", "amount", "before", "called", "can", "contain", "do", "during", "get", "good", "happen", "happens", "how",
    "if", "kind", "like", "long", "look", "made", "make", "many", "mean", "much", "name", "need", "often", "once",
    "percentage", "should", "take", "temperature", "there", "time", "use", "used", "want", "was", "were", "when",
    "where", "why", "will", "you", "your",
})  # fmt: skip
# Of these, what a small model asks about anything: "What does the crumb make?". They have to be the sentence's.
_EASY_VERBS = frozenset({"contain", "get", "look", "made", "make"})
_OF_TEXT = re.compile(r"\bthe (?:text|passage|paragraph|author|following)\b|\b(?:this|that) (?!\w+s\b)\w+\?$", re.I)
_PRONOUN = re.compile(
    r"\b(?:it(?! (?:takes?|means?)\b)|they|them|these|those|he|she|him|her|this|that)\b(?! (?:takes?|means?)\b)", re.I
)
_NEEDS_TEXT = re.compile(
    r"\b(?:(?<!does )it(?! takes?\b)|they|them|these|those|he|she|him|her)\b"
    r"|\bthe (?:text|passage|paragraph|author|following|same)\b|\bsuch an?\b"
    r"|\b(?:this|that) (?!\w+s\b)\w+\?$|^\W*\w+ (?:is|are|does|do) (?:this|that|it)\b(?! take)",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(r"\b(?:this|these) (?!(?:is|means|are)\b)\w+", re.IGNORECASE)  # "leave this step out"
_ARTICLES = frozenset({"a", "an", "its", "the", "their", "your"})
_LINKS = frozenset({"about", "at", "by", "for", "from", "in", "into", "like", "of", "on", "to", "with"})
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_DURATION = re.compile(rf"\b{TIME}\b", re.IGNORECASE)
_TAKES = re.compile(r"\b(?:take|takes|took|last|lasts|need|needs|require|requires)\b", re.IGNORECASE)
_DUTY = re.compile(r"\b(?:must|should|have to|has to|needs? to)\b", re.IGNORECASE)
_MEANING = re.compile(r"\bmeans?\b", re.IGNORECASE)
_PLACE = re.compile(r" (?:in|into|on|onto|at|under) ")
_NAME = re.compile(r"\bnames?\b")
_NAMED = re.compile(r"\b(?:names?|named|called|known)\b", re.IGNORECASE)
_MANNER = re.compile(r"\b(?:by|with|at|in|using|until|into|on)\b", re.IGNORECASE)
_WHAT_IS = re.compile(r"what (?:is|are|was|were) (?:an? |the )?(?P<thing>[^?]+)\?", re.IGNORECASE)
_IS_A = r"(?:is|are|was|were|means?) (?:(?:an?|the|our|your|one|any|\w+ing)|(?:\w+ )?\w+ (?:that|which|who|of|from))\b"
_WHAT_DO = re.compile(r"what (?:does|do|did) (?:an? |the )?(?P<thing>.+?) do\b[^?]*\?", re.IGNORECASE)
# After what something does: not "is", "has to", or a word that isn't a verb.
_NO_ACTION = (
    r"(?:is|are|was|were|has|have|had|can|must|may|an?|the|who|that|which|whose|in|on|at|of|for|from|with|under)\b"
)
_WHAT_SHOULD = re.compile(r"what should you (?P<verb>\w+) (?:an? |the |your )?(?P<next>\w+)", re.IGNORECASE)
_NO_OBJECT = r"(?:s|es)?(?: (?:\w+ly|when|if|because|while|until|at|on|in|to|from|by|after|before)\b|[.,;]|$)"
_REASON = re.compile(
    r"^(?P<before>.*?)(?P<word>\bbecause\b|\bsince\b|, so that\b|, so\b|\bso that\b)(?P<after>.*)$", re.IGNORECASE
)


def finished(reply: str) -> str:
    """The question that a teacher wrote: the first line, without a label, up to its question mark."""
    first = reply.strip().partition("\n")[0].removeprefix("Question:").strip()
    end = re.search(r"[?？]", first)
    return first[: end.end()] if end else f"{first}?"


def best(replies: Sequence[tuple[str, str]], fact: Fact) -> tuple[int, str]:
    """The index and the text of the best question about a fact. replies: each with its opening, in order.

    The first without a problem of the highest certainty; the first of all if each has one.
    """
    written = [(i, finished(reply), opening) for i, (opening, reply) in enumerate(replies)]
    good = [(i, question, opening) for i, question, opening in written if not problem(question, fact, opening)]
    i, question, _ = max(good or written[:1], key=lambda item: certainty(item[1], item[2]))
    return i, question


def needs_text(question: str) -> bool:
    """Whether a question refers to a text that it doesn't name: "What does it do?", "What is the passage about?"."""
    if _OF_TEXT.search(question):
        return True
    refers = _PRONOUN.search(question)
    # A word before the pronoun may be what it stands for: "What happens to bread if it is cut too early?".
    return refers is not None and not content_words(question[: refers.start()]) - OF_QUESTIONS


def certainty(question: str, opening: str) -> int:
    """How much of the question was written by rule, which is more often right than what a small model adds.

    2: all of it. 1: its beginning, with the subject or the kind of answer. 0: at most its first words.
    """
    if question == f"{opening}?":
        return _BY_RULE
    return 0 if opening in ("", *BARE) else 1


def problem(question: str, fact: Fact, opening: str = "") -> str | None:
    """Why the question can't be asked about the fact, or None. opening: its beginning, if that was written by rule."""
    if not question.endswith(("?", "？")):
        return "not a question"
    if len(question.split()) > MAX_WORDS:
        return "too long"
    if _NEEDS_TEXT.search(question):
        return "not understood without the text"
    if _POINTS_BACK.search(fact.sentence):
        return "the answer isn't understood without the text"
    asked = content_words(question) - OF_QUESTIONS
    if not asked:
        return "about nothing"
    known = {word for sentence in fact.nearby for word in content_words(sentence)}
    if unknown := {word for word in asked if not has_form(known, word)}:
        return f"not in the text: {', '.join(sorted(unknown))}"
    own = content_words(fact.context)
    itself = content_words(fact.sentence)
    if _share(asked, own) < _MIN_OWN or _share(asked, itself) < _MIN_ITSELF:
        return "about another sentence"
    if question.startswith("What ") and not _names_subject(question, fact.context):
        return "about another thing"
    if added := {word for word in words(question) if word in _EASY_VERBS and not has_form(itself, word)}:
        return f"not in the sentence: {', '.join(sorted(added))}"
    if opening and question.startswith((f"{opening}'s", f"{opening}’s")):
        return "about another thing"  # "What was the dryer's gift?"
    if _share(itself - OF_QUESTIONS, asked) == 1.0 or _contains_object(question, fact.sentence):
        return "contains the answer"
    if wrong := _wrong_kind(question.lower(), fact.sentence):
        return wrong
    return _wrong_form(question, fact.sentence) if certainty(question, opening) < _BY_RULE else None


def _wrong_kind(question: str, sentence: str) -> str | None:
    """Whether the sentence can't answer this kind of question, by its words."""
    if question.startswith(("how many", "how much", "what percentage")):
        numbers = len(_NUMBER.findall(question))
        if _NUMBER.search(sentence) and len(_NUMBER.findall(sentence)) <= numbers:
            return "contains the answer"
    if question.startswith("what does it take") or (question.endswith(" to do?") and not _DUTY.search(sentence)):
        return "asks for something else"
    if question.startswith("what does ") and re.search(rf"\b{_last_word(question)}s? \w+ly\b", sentence):
        return "asks for an object"  # "What does a soft tyre roll?"
    if question.startswith("where ") and _PLACE.search(question):
        return "contains the answer"
    if _NAME.search(question) and not _NAMED.search(sentence):
        return "asks for a name"
    if question.endswith(" mean?") and not _MEANING.search(sentence):
        return "asks for a meaning"
    if question.startswith("how long"):
        if "does it take" in question and not _TAKES.search(sentence):
            return "asks for another time"
        if not _DURATION.search(sentence):
            return "asks for a time"
        if _DURATION.search(question):
            return "contains the answer"
    if question.startswith("why"):
        reason = _REASON.match(sentence)
        if not reason:
            return "asks for a reason"
        effect = reason["before" if reason["word"].lower() in ("because", "since") else "after"]
        asked = content_words(question) - OF_QUESTIONS
        if _share(asked, content_words(effect)) < 1.0:
            return "asks for another reason"
    if question.startswith(("how do ", "how does ", "how is ", "how are ", "how can ")) and not _MANNER.search(
        sentence
    ):
        return "asks for a manner"
    return None


def _wrong_form(question: str, sentence: str) -> str | None:
    """Whether a question that a model wrote can't be about what the sentence says of its subject."""
    if (match := _WHAT_IS.fullmatch(question)) and not re.search(r"\b(?:by|for|from|of|with|called)\?$", question):
        thing = re.escape(match["thing"])
        defines = rf"\b{thing} {_IS_A}|(?:called|known as|named) (?:an? |the )?{thing}\b|\bis (?:the )?{thing}\b"
        return None if re.search(defines, sentence, re.IGNORECASE) else "asks for a definition"
    if match := _WHAT_DO.fullmatch(question):
        acts = re.search(rf"\b{re.escape(match['thing'])}(?! {_NO_ACTION}|[,;:])", sentence, re.IGNORECASE)
        return None if acts or re.search(r"\bit \w+s\b", sentence) else "asks for an action"
    if match := _WHAT_SHOULD.match(question):
        same = rf"\b{match['verb']} (?:an? |the |your )?{match['next']}\b"
        return "contains the answer" if re.search(same, sentence, re.IGNORECASE) else None
    if question.startswith("What does ") and re.search(rf"\b{_last_word(question)}{_NO_OBJECT}", sentence):
        return "asks for an object"  # "What does the alert fire?"
    return None


def _last_word(question: str) -> str:
    return re.escape(question.rstrip("?").split()[-1])


def _names_subject(question: str, text: str) -> bool:
    """Whether the first thing that the question names is the first of the text."""
    named, things = (
        [word for word in words(part.replace("`", " ")) if word in content_words(part) - OF_QUESTIONS]
        for part in (question, text)
    )
    return has_form(set(things[:1]), named[0])


def _contains_object(question: str, sentence: str) -> bool:
    """Whether a question "What does …?" ends with two words of the sentence: "What does steam keep the skin soft?"."""
    if not question.startswith("What does "):
        return False
    *_, before, last = re.findall(r"[\w'’-]+", question)
    following = pairwise(word for word in re.findall(r"[\w'’-]+", sentence) if word not in _ARTICLES)
    return last not in _LINKS and any(second == last and has_form({first}, before) for first, second in following)


def _share(some: Set[str], among: Set[str]) -> float:
    """The share of some words that are among others, in any form; 1 for no words."""
    return sum(has_form(among, word) for word in some) / len(some) if some else 1.0
