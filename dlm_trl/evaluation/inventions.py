"""Traps, questions that the notes don't answer, and how often a model makes up an answer to one.

    abstains("I'm sorry, but the notes don't say.")            # True
    inventions(["The notes don't mention it.", "In 1871."])    # share 0.5, with its interval

An answer is an invention unless it abstains, which a rule over its words decides. The rule is English: in another
language only an empty answer abstains. It reads the first sentence, because what a model adds after "I don't know." is
often advice; a claim in the same sentence ("I don't know, but about an hour.") is an invention.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from dlm_trl.evaluation.mcsb import wilson

ABSTENTION = "The notes don't say."  # the answer that a trap should get

_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
_TURN = re.compile(r"[,;:–—-]?\s*\b(?:but|however|although|though)\b[,:]?|;")
_NOT = r"(?:do|does|did|have|has|had|is|are|was|were|can|could|would)(?:n't| not| never)"
_SOURCE = (
    r"(?:notes?|texts?|documents?|passages?|prose|articles?|context|contents?|excerpts?|paragraphs?|sections?|"
    r"information|materials?|pages?|sources?|book|author|writer|they|it)"
)
_ADVERB = r"(?:(?:actually|explicitly|clearly|directly|specifically|really|exactly|even|currently|ever|yet) )?"
_TELL = (
    r"(?:say|mention|tell|state|specify|cover|contain|include|provide|explain|describe|discuss|address|indicate|"
    r"reveal|answer|list|note|define|detail|talk|refer)"
)
_TOLD = r"(?:mentioned|stated|specified|disclosed|indicated|addressed|answerable)"
_KNOWN = (
    r"(?:known|given|said|provided|covered|described|included|listed|discussed|clear|explained|answered|available|"
    r"found|noted|there|written)"
)
# What may follow `not known`: "It isn't known." abstains, "The dough isn't given any salt." is a claim.
_THEN = r"(?=$| (?:in|by|from|within|about|on|here|at all|to (?:me|us)|how|what|when|where|which|who|whether|why)\b)"
_ABSTAINS = re.compile(
    "|".join(
        (
            rf"\b{_SOURCE}(?: \w+){{0,4}}? (?:do|does|did)(?:n't| not| never) {_ADVERB}{_TELL}\b",
            rf"\b{_SOURCE}(?: \w+){{0,4}}? (?:never|nowhere) {_TELL}s?\b",
            rf"\b{_SOURCE} (?:says?|mentions?|contains?|gives?|provides?|tells?)(?: us| me)? (?:nothing|no)\b",
            rf"\b{_SOURCE} (?:is|are) silent\b",
            rf"\b{_NOT} {_ADVERB}(?:been )?{_TOLD}\b",
            rf"\b{_NOT} {_ADVERB}(?:been )?{_KNOWN}{_THEN}",
            rf"^(?:this |that |it )?(?:is |was )?not {_ADVERB}(?:{_TOLD}|{_KNOWN}{_THEN})",
            r"\b(?:i|we)(?: \w+)? (?:(?:do|did|could)n't|(?:do|did|can|could) ?not|can't) (?:really |actually )?"
            r"(?:know|tell|say|find|answer|determine|see|provide|recall|remember|have (?:access|any|an|enough|that|"
            r"this|the|information|specific|details|data|sufficient))\b",
            r"\b(?:i|we)(?:'m| am|'re| are) (?:not|un)(?: |)(?:sure|aware|certain|able|familiar)\b",
            r"\b(?:i|we)(?:'ve| have| had)? (?:no|not enough|insufficient) (?:idea|clue|information|knowledge|data)\b",
            r"^(?:sorry, )?(?:no idea|not sure|unsure|dunno|unknown|unclear|unspecified|none given|n/?a|"
            r"not applicable|no answer|no information|no mention|not enough information|insufficient information)\b",
            r"\bthere(?:'s| is| was| are) (?:no|not any|not enough|nothing|insufficient) ?(?:specific |further |clear |"
            r"direct |explicit )?(?:information|mention|answer|detail|details|data|record|reference|indication|"
            r"evidence|(?:said |written |stated )?(?:about|on|in the))\b",
            r"\b(?:is|are|remains?|was) (?:unknown|unclear|unspecified|unstated|left open)\b",
            r"\b(?:can't|cannot|can not|couldn't|could not) be (?:answered|known|determined|said|told|found)\b",
            r"\b(?:nothing|no (?:information|details?|mention|word)) (?:is|was|are|were) (?:said|given|mentioned|"
            r"provided|made|stated|available|known)\b",
            r"(?:\bimpossible|(?:\bnot|n't) possible) to (?:say|tell|know|answer|determine)\b",
        )
    )
)


def abstains(answer: str) -> bool:
    """Whether the answer says, in English, that it doesn't know or that the notes don't say; also an empty one."""
    text = answer.lower().replace("’", "'").replace("*", "").strip()
    if not any(character.isalnum() for character in text):
        return True
    first = _SENTENCE_END.split(text, maxsplit=1)[0].strip(" .!?\"'")
    *_, last = _TURN.split(first)
    return bool(_ABSTAINS.search(last.strip(" ,")))


def inventions(answers: Sequence[str]) -> dict[str, float]:
    """inventions: the share of answers that don't abstain, from 0 to 1; low, high: its 95 % interval.

    answers: those that a model gave to traps. Raises ValueError for none.
    """
    if not answers:
        raise ValueError("no answers to score")
    share = fmean(not abstains(answer) for answer in answers)
    low, high = wilson(share, len(answers))
    return {"inventions": share, "low": low, "high": high}
