"""A teacher's reply becomes pairs: whatever is whole in it counts, whatever stands around it does not matter.

    pairs, problem = parse_reply(reply.text)        # problem: one line for the teacher, where there is no pair at all

Instead of reading the reply as JSON, it is searched for JSON objects that have a question and an answer. So a preamble,
chatter behind, code fences, a dict around the list, a broken item among good ones and a list that was cut off need no
care of their own. Where there is no such object, what only looks like one is read (quotes of other kinds, or bare ones
within a text), and else lines labelled `Q:` and `A:`. A text whose end is not certain is left out, not guessed.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise, zip_longest
from typing import NamedTuple

from dlm_trl.notes.code_blocks import markdown_blocks
from dlm_trl.synth.pairs import QAPair

_QUESTION_KEYS = ("question", "q", "prompt")
_ANSWER_KEYS = ("answer", "a", "response")
_FAMILIES = {"prompt": 1, "response": 1}  # else 0: in a reply in `Q:` and `A:`, a line `Prompt:` is text

# A reply may begin with reasoning, or with its rest where the chat template has opened it already; gpt-oss ends it in
# words of its own, of which a tokenizer may have left out the special tokens.
_TAG = r"[<\[]%s(?:think(?:ing)?|thought|reasoning|reflection)[>\]]"
_REASONING_END = re.compile(rf"{_TAG % '/'}|<\|channel\|>final<\|message\|>|assistantfinal", re.IGNORECASE)
_REASONING = re.compile(rf"(?:\s*{_TAG % ''}.*?(?:{_TAG % '/'}|\Z))+", re.DOTALL | re.IGNORECASE)
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
# So are tabs and line ends in front of the rest of a command's name (`\times`, `\nabla`, `\rho`).
_TEX = (
    r"t(?:ext[a-z]*\{|(?:anh?|au|binom|frac|heta|ilde|imes|riangle)(?![A-Za-z])|o(?=\\|\s[^:=])|(?<=[\^{]\\t)op)"
    r"|n(?:(?:abla|eq|otin)(?![A-Za-z])|u(?![A-Za-z\s]))|r[A-Za-z]"
)
_ESCAPE = re.compile(rf'\\(?:["\\/]|(?!{_TEX})[nrt]|u[0-9a-fA-F]{{4}})?')
# What stands for a question in the example of a format.
_PLACEHOLDER = re.compile(
    r"[\W_]*|<[^<>]*>|[\W_]*(?:string|q|(?:(?:your|the) )?question(?: text| here)?)[\W\d_]*", re.IGNORECASE
)
_MATES = {"“": "”", "‘": "’"}
_LOOSE_KEY = re.compile(r"""([{,])\s*+["'“‘]?(\w++)["'”’]?\s*+:\s*+(["'“‘])""")
_STRING_PART = re.compile(r'\\.|"', re.DOTALL)

_NAMES = "|".join(_QUESTION_KEYS + _ANSWER_KEYS)
_LABEL = re.compile(rf"""(?:[^\w{{"']|[\d_])*({_NAMES})[\s\d*.)]*[:：][\s*]*(.*)""", re.IGNORECASE)
_HEADING = re.compile(rf"\s*(?:\d+[.)]\s*)?(?:#|\*\*)[#\s*]*({_NAMES})[\s\d*.]*()", re.IGNORECASE)
_RULE = re.compile(r"[\s*=_-]*")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s")


class Parsed(NamedTuple):
    """The pairs of a reply in their order, as the teacher wrote them; or, without any, the problem in one line."""

    pairs: list[QAPair]
    problem: str | None


def parse_reply(text: str, is_cut: bool = False) -> Parsed:
    """The pairs in this reply; is_cut says that it ended at the limit of its tokens. Never raises; takes time linear
    in the reply's length.
    """
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
        # An object behind a label is part of a text, and a line `question: …` behind a brace is part of an object.
        is_labelled = any(map(_LABEL.match, part.partition("{")[0].splitlines()))
        loose = [] if pairs or is_labelled else _loose_pairs(part)
        if pairs := pairs or loose or _labelled_pairs(part, is_cut):
            return Parsed(pairs, None)
    return Parsed([], problem)


def _json_pairs(text: str) -> Parsed:
    pairs: list[QAPair] = []
    problem = None
    at = text.find("{")
    while at >= 0:
        end = at + 1
        if found := _OBJECT.match(text, at):
            read = _object_pairs(found[0])
            if not isinstance(read, str):
                pairs += read
                end = found.end()
            elif "{" not in found[0][1:]:  # else what is wrong is said of the objects in it
                problem = problem or read
        at = text.find("{", end)
    if problem is None:
        problem = "The JSON ends within its first object." if "{" in text else "There is no JSON object in the reply."
    return Parsed(pairs, problem)


def _object_pairs(source: str) -> list[QAPair] | str:
    """The pairs in this JSON object, several where a teacher forgot the braces between them; or what is wrong with it
    in one line.
    """
    try:
        # Numbers stay as they were written: `1.50` is an answer too. Line breaks within strings are let pass.
        items = json.loads(
            _escaped(_LAST_COMMA.sub("}", source)),
            strict=False,
            parse_int=str,
            parse_float=str,
            object_pairs_hook=list,
        )
    except json.JSONDecodeError as error:
        near = source[max(0, error.pos - 20) : error.pos + 20]
        return f"The JSON is broken: {error.msg} near {near!r}."
    except RecursionError:
        return "The JSON is nested too deeply."
    texts: dict[str, list[str]] = {}
    for key, value in items:
        if isinstance(value, str):
            texts.setdefault(key.strip().lower(), []).append(value)
    questions, answers = (
        next((texts[key] for key in keys if key in texts), []) for keys in (_QUESTION_KEYS, _ANSWER_KEYS)
    )
    pairs = [pair for pair in map(QAPair, questions, answers) if _is_question(pair.question)]
    if not pairs or len(questions) != len(answers):
        return 'A JSON object lacks a text for "question" or for "answer".'
    return pairs


def _escaped(source: str) -> str:
    """JSON with a second backslash before those that are TeX."""
    return _ESCAPE.sub(lambda escape: escape[0] if len(escape[0]) > 1 else r"\\", source)


def _is_question(text: str) -> bool:
    return not _PLACEHOLDER.fullmatch(text)


def _loose_pairs(text: str) -> list[QAPair]:
    """Pairs in what would be JSON but for its quotes: single ones, typographic ones, none around the keys, or bare
    ones within a text.

    Such a text ends where the next key begins or an object ends, if its own quotes and brackets are in pairs.
    """
    pairs = []
    question = None
    keys = list(_LOOSE_KEY.finditer(text))
    for key, after in zip_longest(keys, keys[1:]):
        source = text[key.end() : after.start() if after else len(text)]
        value = _loose_text(source, key[3], after[1] if after else None)
        name = key[2].lower()
        if key[1] == "{" or name in _QUESTION_KEYS:
            question = value if name in _QUESTION_KEYS else None
        elif name in _ANSWER_KEYS:
            if question and value and _is_question(question):
                pairs.append(QAPair(question, value))
            question = None
    return pairs


def _loose_text(source: str, quote: str, sign: str | None) -> str | None:
    """The text that begins this source, behind its opening quote; sign is what stands in front of the next key. None
    where its end is not certain.
    """
    quote = _MATES.get(quote, quote)
    rest = {",": r"\s*+", "{": r"\s*+,?\s*+\}[\s,\[\]{}]*+", None: r"\s*+,?\s*+\}.*+"}[sign]
    found = re.fullmatch(rf"(.*){quote}{rest}", source, re.DOTALL)
    if found is None:
        return None
    text = found[1]
    bare = _STRING_PART.sub(lambda part: part[0] if len(part[0]) > 1 else r"\"", text.replace(r"\'", "'"))
    if text.startswith('""') or any(text.count(left) != text.count(right) for left, right in ("{}", "[]")):
        return None
    if quote == '"' and _STRING_PART.findall(text).count('"') % 2:
        return None
    try:
        return str(json.loads(_escaped(f'"{bare}"'), strict=False))
    except json.JSONDecodeError:
        return None


def _labelled_pairs(text: str, is_cut: bool) -> list[QAPair]:
    """Pairs in lines such as `1. **Q:** …` and `A: …`, or under headings `### Question`.

    Each text runs to the next label, a rule, or a blank line behind which no code block and no list goes on.
    """
    texts: list[tuple[bool, list[str]]] = []
    family = None
    begin = None  # the line of the label of the text that is open
    gap = 0
    lines = text.splitlines()
    blocks, _ = markdown_blocks(lines)
    for i, (line, opener) in enumerate(zip(lines, blocks, strict=True)):
        is_code = begin is not None and opener is not None and opener > begin
        label = None if is_code else _LABEL.match(line) or _HEADING.fullmatch(line)
        if label and family in (None, _FAMILIES.get(label[1].lower(), 0)):
            family = _FAMILIES.get(label[1].lower(), 0)
            texts.append((label[1].lower() in _QUESTION_KEYS, [label[2]]))
            begin, gap = i, 0
        elif begin is not None:
            said = texts[-1][1]
            if not is_code and _RULE.fullmatch(line):
                gap += any(said)
                begin = None if gap and line.strip() else begin
            elif not gap or is_code or said[-1].rstrip().endswith((":", "：")) or _goes_on(said[-1], line):
                said += [""] * gap + [line]
                gap = 0
            else:
                begin = None
    if is_cut and begin is not None:
        texts.pop()
    kinds = [is_question for is_question, _ in texts[2:]] + [True, True]
    return [
        QAPair(_bare(question), _bare(answer))
        for (((first, question), (second, answer)), third) in zip(pairwise(texts), kinds, strict=False)
        # A second answer shows that the first was none: an option of several, or a text with labels of its own.
        if first and not second and third and any(answer) and _is_question(_bare(question))
    ]


def _goes_on(line: str, following: str) -> bool:
    """Whether a list goes on behind a blank line."""
    return bool(_ITEM.match(line) and _ITEM.match(following))


def _bare(lines: list[str]) -> str:
    text = "\n".join(lines).strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2:
        return text[1:-1]
    return text.removesuffix("**") if text.count("**") == 1 else text  # its other half stood before the label
