"""A teacher's reply becomes pairs: whatever is whole in it counts, whatever stands around it does not matter.

    pairs, problem = parse_reply(reply.text)        # problem: one line for the teacher, where there is no pair at all

Instead of reading the reply as JSON, it is searched for JSON objects that have a question and an answer. So a preamble,
chatter behind, code fences, a dict around the list, a broken item among good ones and a list that was cut off need no
care of their own. Where there is no such object, lines labelled `Q:` and `A:` are read.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import NamedTuple

from dlm_trl.synth.pairs import Pair

_QUESTION_KEYS = ("question", "q", "prompt")
_ANSWER_KEYS = ("answer", "a", "response")

# A reply may begin with reasoning, or with its rest where the chat template has opened it already.
_REASONING = re.compile(r"\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_REASONING_END = re.compile(r"</think(?:ing)?>")
# An object with objects in it, down to the third level. Nothing is tried twice (`*+`), and a backslash outside of a
# string ends the try: so all tries together look at a character a few times at most, at each level as part of a string
# and not.
_FLAT = r'(?:[^{}"\\]|"(?:[^"\\]|\\.)*+")*+'
_LEVEL = rf"\{{{_FLAT}\}}"
for _ in range(3):
    _LEVEL = rf"\{{{_FLAT}(?:{_LEVEL}{_FLAT})*+\}}"
_OBJECT = re.compile(_LEVEL, re.DOTALL)
_LAST_COMMA = re.compile(r",\s*\}\Z")
# JSON's escapes but \b and \f, which no text has: those, and backslashes before anything else, are TeX (`\frac`, `\(`).
_ESCAPE = re.compile(r'\\(?:["\\/nrt]|u[0-9a-fA-F]{4})?')
_LABEL = re.compile(rf"[\W\d_]*({'|'.join(_QUESTION_KEYS + _ANSWER_KEYS)})[\s\d*.)]*[:：][\s*]*(.*)", re.IGNORECASE)
_RULE = re.compile(r"[\s*=_-]*")


class Parsed(NamedTuple):
    """The pairs of a reply in their order, as the teacher wrote them; or, without any, the problem in one line."""

    pairs: list[Pair]
    problem: str | None


def parse_reply(text: str) -> Parsed:
    """The pairs in this reply. Never raises; takes time linear in the reply's length."""
    if not text.strip():
        return Parsed([], "The reply is empty.")
    reasoning = _REASONING.match(text)
    rest = text[reasoning.end() :] if reasoning else text
    if not rest.strip():
        return Parsed([], "The reply ends with its reasoning; nothing follows.")
    end = None if reasoning else _REASONING_END.search(text)
    # An answer may well speak of the tag, so that what stands before it counts where nothing stands behind.
    parts = [rest[end.end() :], rest] if end else [rest]
    problem = None
    for part in parts:
        pairs, problem = _json_pairs(part)
        if pairs := pairs or _labelled_pairs(part):
            return Parsed(pairs, None)
    return Parsed([], problem)


def _json_pairs(text: str) -> Parsed:
    pairs: list[Pair] = []
    problem = None
    at = text.find("{")
    while at >= 0:
        end = at + 1
        if found := _OBJECT.match(text, at):
            pair = _pair(found[0])
            if isinstance(pair, Pair):
                pairs.append(pair)
                end = found.end()
            elif "{" not in found[0][1:]:  # else what is wrong is said of the objects in it
                problem = problem or pair
        at = text.find("{", end)
    if problem is None:
        problem = "The JSON ends within its first object." if "{" in text else "There is no JSON object in the reply."
    return Parsed(pairs, problem)


def _pair(source: str) -> Pair | str:
    """The pair in this JSON object, or what is wrong with it in one line."""
    source = _ESCAPE.sub(lambda escape: escape[0] if len(escape[0]) > 1 else r"\\", _LAST_COMMA.sub("}", source))
    try:
        # Numbers stay as they were written: `1.50` is an answer too. Line breaks within strings are let pass.
        values = json.loads(source, strict=False, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        near = source[max(0, error.pos - 20) : error.pos + 20]
        return f"The JSON is broken: {error.msg} near {near!r}."
    except RecursionError:
        return "The JSON is nested too deeply."
    fields = {key.strip().lower(): value for key, value in values.items()}
    question, answer = (
        next((fields[key] for key in keys if isinstance(fields.get(key), str)), None)
        for keys in (_QUESTION_KEYS, _ANSWER_KEYS)
    )
    if question is None or answer is None:
        return 'A JSON object lacks a text for "question" or for "answer".'
    return Pair(question, answer)


def _labelled_pairs(text: str) -> list[Pair]:
    """Pairs in lines such as `1. **Q:** …` and `A: …`; each text runs to the next label, a blank line or a rule."""
    texts: list[tuple[bool, list[str]]] = []
    is_open = False
    for line in text.splitlines():
        if label := _LABEL.match(line):
            texts.append((label[1].lower() in _QUESTION_KEYS, [label[2]]))
            is_open = True
        elif is_open and not _RULE.fullmatch(line):
            texts[-1][1].append(line)
        elif is_open:
            is_open = not any(texts[-1][1])
    return [
        Pair(_unbolded(question), _unbolded(answer))
        for (first, question), (second, answer) in pairwise(texts)
        if first and not second and any(question) and any(answer)
    ]


def _unbolded(lines: list[str]) -> str:
    text = "\n".join(lines).strip()
    return text.removesuffix("**") if text.count("**") == 1 else text  # its other half stood before the label
