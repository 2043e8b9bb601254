"""Parse a teacher's reply into pairs, keeping every complete pair and ignoring everything around them.

    pairs, problem = parse_reply(reply.text)        # problem: one line for the teacher if there are no pairs

The reply is not read as one JSON document but searched for JSON objects with a question and an answer. This handles
preambles, trailing chatter, code fences, a dict around the list, a broken item among good ones and a truncated list
without special cases. If there is no such object, the parser tries objects with invalid quotes (single, typographic,
missing or unescaped), then lines labelled `Q:` and `A:`. A text whose end is ambiguous is dropped, not guessed.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise, zip_longest
from typing import NamedTuple

from dlm_trl.notes.code_blocks import markdown_blocks
from dlm_trl.synth.pairs import QAPair

# Asked about German prose, a model may write German keys. The languages with the most prose on the web.
_QUESTION_KEYS = (
    "question", "q", "prompt", "frage", "pregunta", "pergunta", "domanda", "vraag", "pytanie", "вопрос", "питання",
    "soru", "سؤال", "السؤال", "प्रश्न", "问题", "問題", "问", "問", "質問", "질문", "câu hỏi", "pertanyaan",
)  # fmt: skip
_ANSWER_KEYS = (
    "answer", "a", "response", "antwort", "respuesta", "resposta", "risposta", "antwoord", "odpowiedź", "réponse",
    "ответ", "відповідь", "cevap", "جواب", "الجواب", "الإجابة", "उत्तर", "答案", "回答", "答", "답변", "답", "trả lời",
    "jawaban",
)  # fmt: skip
_FAMILIES = {"prompt": 1, "response": 1}  # others 0: if labels are `Q:` and `A:`, a line `Prompt:` is content

# A reply may begin with reasoning, or in the middle of it if the chat template already opened the tag. gpt-oss ends
# reasoning with its own marker, whose special tokens may have been removed when decoding.
_TAG = r"[<\[]%s(?:think(?:ing)?|thought|reasoning|reflection)[>\]]"
_REASONING_END = re.compile(rf"{_TAG % '/'}|<\|channel\|>final<\|message\|>|assistantfinal", re.IGNORECASE)
_REASONING = re.compile(rf"(?:\s*{_TAG % ''}.*?(?:{_TAG % '/'}|\Z))+", re.DOTALL | re.IGNORECASE)
# An object with nested objects, up to three levels. Possessive quantifiers (`*+`) rule out backtracking, and a
# backslash outside a string ends the attempt, so each character is read a small number of times in total.
_FLAT = r'(?:[^{}"\\]|"(?:[^"\\]|\\.)*+")*+'
_LEVEL = rf"\{{{_FLAT}\}}"
for _ in range(3):
    _LEVEL = rf"\{{{_FLAT}(?:{_LEVEL}{_FLAT})*+\}}"
_OBJECT = re.compile(_LEVEL, re.DOTALL)
_LAST_COMMA = re.compile(r",\s*\}\Z")
# JSON's escapes without \b and \f, which don't occur in text: those, and any invalid escapes, are TeX (`\frac`, `\(`).
# So are \t, \n and \r that start the name of a TeX command (`\times`, `\nabla`, `\rho`).
_TEX = (
    r"t(?:ext[a-z]*\{|(?:anh?|au|binom|frac|heta|ilde|imes|riangle)(?![A-Za-z])|o(?=\\|\s[^:=])|(?<=[\^{]\\t)op)"
    r"|n(?:(?:abla|eq|otin)(?![A-Za-z])|u(?![A-Za-z\s]))|r[A-Za-z]"
)
_ESCAPE = re.compile(rf'\\(?:["\\/]|(?!{_TEX})[nrt]|u[0-9a-fA-F]{{4}})?')
# Placeholders for the question in an example of the format.
_PLACEHOLDER = re.compile(
    r"[\W_]*|<[^<>]*>|[\W_]*(?:string|q|(?:(?:your|the) )?question(?: text| here)?)[\W\d_]*", re.IGNORECASE
)
_CLOSING_QUOTES = {"“": "”", "‘": "’"}
_LOOSE_KEY = re.compile(r"""([{,])\s*+["'“‘]?(\w++(?: \w++)?)["'”’]?\s*+[:：]\s*+(["'“‘])""")
_STRING_PART = re.compile(r'\\.|"', re.DOTALL)

_NAMES = "|".join(_QUESTION_KEYS + _ANSWER_KEYS)
_LABEL = re.compile(rf"""(?:[^\w{{"']|[\d_])*({_NAMES})[\s\d*.)]*[:：][\s*]*(.*)""", re.IGNORECASE)
_HEADING = re.compile(rf"\s*(?:\d+[.)]\s*)?(?:#|\*\*)[#\s*]*({_NAMES})[\s\d*.]*()", re.IGNORECASE)
_RULE = re.compile(r"[\s*=_-]*")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s")


class Parsed(NamedTuple):
    """The pairs of a reply in order, as the teacher wrote them, or the problem in one line if there are none."""

    pairs: list[QAPair]
    problem: str | None


def parse_reply(text: str, is_truncated: bool = False) -> Parsed:
    """The pairs in this reply; is_truncated: it reached its token limit.

    Never raises, and takes time linear in the reply's length.
    """
    if not text.strip():
        return Parsed([], "The reply is empty.")
    reasoning = _REASONING.match(text)
    rest = text[reasoning.end() :] if reasoning else text
    if not rest.strip():
        return Parsed([], "The reply has only reasoning, and nothing after it.")
    end = None if reasoning else _REASONING_END.search(text)
    # An answer may mention the tag, so if there are no pairs after it, read everything.
    parts = [rest[end.end() :], rest] if end else [rest]
    problem = None
    for part in parts:
        pairs, problem = _json_pairs(part)
        # An object after a label is part of a text, and a line `question: …` after a brace is part of an object.
        is_labelled = any(map(_LABEL.match, part.partition("{")[0].splitlines()))
        loose = [] if pairs or is_labelled else _loose_pairs(part)
        if pairs := pairs or loose or _labelled_pairs(part, is_truncated):
            return Parsed(pairs, None)
    return Parsed([], problem)


def _json_pairs(text: str) -> Parsed:
    """The pairs of the last whole list with any, else of all objects: earlier ones may be drafts."""
    every: list[QAPair] = []
    whole: list[QAPair] = []  # of the last list that was closed
    current: list[QAPair] | None = None  # of the list that is being read
    done = 0
    problem = None
    start = text.find("{")
    while start >= 0:
        end = start + 1
        if match := _OBJECT.match(text, start):
            result = _object_pairs(match[0])
            if not isinstance(result, str):
                _, closing, after = text[done:start].rpartition("]")
                if closing:
                    whole, current = current or whole, None
                if "[" in after:
                    current = []
                every += result
                if current is not None:
                    current += result
                end = done = match.end()
            elif "{" not in match[0][1:]:  # otherwise report the problems of the nested objects
                problem = problem or result
        start = text.find("{", end)
    if problem is None:
        problem = "The JSON ends within its first object." if "{" in text else "There is no JSON object in the reply."
    if "]" in text[done:]:
        whole = current or whole
    return Parsed(whole or every, problem)


def _object_pairs(source: str) -> list[QAPair] | str:
    """The pairs in this JSON object (several if the teacher forgot the braces between them), or its problem."""
    try:
        # Numbers stay as written, since `1.50` can be an answer. strict=False allows line breaks within strings.
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
    """The JSON with TeX backslashes doubled."""
    return _ESCAPE.sub(lambda escape: escape[0] if len(escape[0]) > 1 else r"\\", source)


def _is_question(text: str) -> bool:
    return not _PLACEHOLDER.fullmatch(text)


def _loose_pairs(text: str) -> list[QAPair]:
    """Pairs in JSON with invalid quotes: single, typographic, missing around keys, or unescaped within a text.

    A text ends where the next key starts or the object ends, provided that its own quotes and brackets are balanced.
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


def _loose_text(source: str, quote: str, separator: str | None) -> str | None:
    """The text at the start of this source, which begins after the opening quote; None if its end is ambiguous.

    separator: the character before the next key (`,` or `{`), or None after the last one.
    """
    quote = _CLOSING_QUOTES.get(quote, quote)
    rest = {",": r"\s*+", "{": r"\s*+,?\s*+\}[\s,\[\]{}]*+", None: r"\s*+,?\s*+\}.*+"}[separator]
    match = re.fullmatch(rf"(.*){quote}{rest}", source, re.DOTALL)
    if match is None:
        return None
    text = match[1]
    bare = _STRING_PART.sub(lambda part: part[0] if len(part[0]) > 1 else r"\"", text.replace(r"\'", "'"))
    if text.startswith('""') or any(text.count(left) != text.count(right) for left, right in ("{}", "[]")):
        return None
    if quote == '"' and _STRING_PART.findall(text).count('"') % 2:
        return None
    try:
        return str(json.loads(_escaped(f'"{bare}"'), strict=False))
    except json.JSONDecodeError:
        return None


def _labelled_pairs(text: str, is_truncated: bool) -> list[QAPair]:
    """Pairs in lines like `1. **Q:** …` and `A: …`, or under headings like `### Question`.

    A text ends at the next label, a rule, or a blank line that isn't followed by more of its code block or list.
    """
    texts: list[tuple[bool, list[str]]] = []
    family = None
    begin = None  # the line of the current text's label
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
            current = texts[-1][1]
            if not is_code and _RULE.fullmatch(line):
                gap += any(current)
                begin = None if gap and line.strip() else begin
            elif not gap or is_code or current[-1].rstrip().endswith((":", "：")) or _continues_list(current[-1], line):
                current += [""] * gap + [line]
                gap = 0
            else:
                begin = None
    if is_truncated and begin is not None:
        texts.pop()
    kinds = [is_question for is_question, _ in texts[2:]] + [True, True]
    return [
        QAPair(_unquoted(question), _unquoted(answer))
        for (((first, question), (second, answer)), third) in zip(pairwise(texts), kinds, strict=False)
        # Two answers in a row mean that the first isn't the answer, but an option of a list or a text with labels.
        if first and not second and third and any(answer) and _is_question(_unquoted(question))
    ]


def _continues_list(line: str, following: str) -> bool:
    """Whether a list continues after a blank line."""
    return bool(_ITEM.match(line) and _ITEM.match(following))


def _unquoted(lines: list[str]) -> str:
    text = "\n".join(lines).strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2:
        return text[1:-1]
    return text.removesuffix("**") if text.count("**") == 1 else text  # the opening one was before the label
