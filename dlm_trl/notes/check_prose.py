"""Check prose for questions with answers and flashcards: they are trained as text, and no question is ever asked.

These are hints, and only for what is written in one of the usual ways, because most colons in prose mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from dlm_trl.notes.document import Section
from dlm_trl.notes.findings import Finding

_QUESTION = "Q|(?i:question|frage|pregunta|front|vorderseite)|问题?|問題?|質問"
_ANSWER = "A|(?i:answer|antwort|respuesta|réponse|back|rückseite)|答案?|回答"


def _label(words: str) -> re.Pattern[str]:
    """`Q: `, `**Question 2:** `, `- 问：`, `Q1. `, or `### Q` alone."""
    start = r"(?:[-*+>] {1,3}|\d{1,3}[.)] {1,3})?(?:\*\*|__|[*_])?"
    end = r"[ ]?\d{0,3}(?:\*\*|__|[*_])?[:：.)](?:\*\*|__|[*_])?(?:\s|$|(?<=：))"
    return re.compile(rf"{start}(?:{words}){end}|#{{1,6}} (?:{words}) ?\d{{0,3}}:?$")


_QUESTION_LABEL, _ANSWER_LABEL = _label(_QUESTION), _label(_ANSWER)
_ANSWER_INSIDE = re.compile(rf"\s(?:\*\*|__)?(?:{_ANSWER})(?:\*\*|__)?[:：]")
_WITHIN = 8  # lines from a question to its answer
_CARD = re.compile(r"\{\{c\d{1,3}::|(?:^|\s)#(?:flash)?cards?(?:$|[\s/])")
_NO_CARD = ("->", "=>", "`", "|")  # a type signature, code, a table

_FIX = "To train it as a pair, write `::instruction::`, `### Q`, the question, `### A` and the answer, each on a line."


def looks_like_pair(line: str) -> bool:
    """Whether this line starts a question or an answer with a label."""
    return bool(_QUESTION_LABEL.match(line) or _ANSWER_LABEL.match(line))


def check_prose(sections: Iterable[Section], in_code: dict[int, bool], path: Path) -> Iterator[Finding]:
    """A hint for each prose section with pairs or flashcards. in_code: whether a file line is in a code block."""
    for section in sections:
        if section.kind != "prose":
            continue
        lines = [
            (number, "" if in_code.get(number) else line.strip())
            for number, line in enumerate(section.content.split("\n"), section.content_line)
        ]
        for kind, found in (("question with its answer", _pairs(lines)), ("flashcard", _cards(lines))):
            if found:
                more = f", and {len(found) - 1} more in this section" if len(found) > 1 else ""
                message = f"This looks like a {kind}{more}."
                why = "In prose it is trained as text, and isn't a pair that is asked or measured."
                yield Finding(path, found[0], 1, "pair-in-prose", message, why, _FIX)


def _pairs(lines: list[tuple[int, str]]) -> list[int]:
    """The file lines of questions that an answer follows."""
    found = []
    asked: int | None = None
    for number, line in lines:
        if question := _QUESTION_LABEL.match(line):
            asked = number
            if _ANSWER_INSIDE.search(line, question.end()):
                found.append(number)
                asked = None
        elif asked is not None and number - asked <= _WITHIN and _ANSWER_LABEL.match(line):
            found.append(asked)
            asked = None
    return found


def _cards(lines: list[tuple[int, str]]) -> list[int]:
    """The file lines of flashcards: `question? :: answer`, a `?` alone between its two sides, `#flashcard`, a cloze."""
    found: list[int] = []
    terms: list[int] = []
    for number, line in lines:
        front, separator, back = line.partition(" :: ")
        if _CARD.search(line):
            found.append(number)
        elif separator and back.strip() and not any(sign in line for sign in _NO_CARD):
            if front.endswith(("?", "？")):
                found.append(number)
            elif ":" not in front and " :: " not in back:  # unlike `Classifier: License :: OSI Approved`
                terms.append(number)
    for ((number, before), (_, line)), (_, (_, after)) in pairwise(pairwise(lines)):
        if line in ("?", "??") and before and after:
            found.append(number)
    return sorted(found + (terms if found or len(terms) > 1 else []))  # a single `a :: b` may mean anything
