"""Questions about the prose of notes: `SpanQa([read("notes.dlm")])`.

A span of the prose is drawn first, by rule (`spans`). The frozen base writes a question for it with the prose in its
prompt, and a second time has to answer that question with the span (`check_prompts`). The training row is the question
and the span *without* the prose, which moves the content of the notes into the weights. Hand-written pairs aren't used.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dlm_trl.notes import Document
from dlm_trl.notes.errors import NoRowsError
from dlm_trl.notes.sentences import NUMBERS, paragraphs, sentences
from dlm_trl.tasks import prompts
from dlm_trl.tasks.protocol import Example, Messages, Reject, accuracy

MAX_SPAN = 16  # words
PASSAGE = 120  # words, by default

# English function words, before which a noun phrase ends.
_DETERMINERS = "a an the this that these those its their his her your our my any some all every each both"
_STOP = (
    "and or but nor so if when while because than then as "
    "which who whom whose where how what why is are was were be been being am has have had do does did can could may "
    "might must shall should will would not no it he she they we you i him them us me of in on at by for from to with "
    "without within into onto over under above below between before after until during about through across along "
    "against among around near off out up down per too very also just only either most"
)
_STOPS = _STOP.replace(" ", "|")
_WORD = rf"(?!(?:{_STOPS}|{_DETERMINERS.replace(' ', '|')})\b)[^\W\d_][\w'’-]*"
_RUN = rf"{_WORD}(?: {_WORD}){{0,2}}"
_COUNT = "|".join(word for word in NUMBERS if word != "one")
_NUMBER = re.compile(rf"\b(?:\d+(?:[.,:/]\d+)*|{_COUNT})\b(?:\s?[%°]\w?| {_WORD}(?: Celsius| Fahrenheit)?)?")
# A complement, up to the end of its clause: "is a mix of flour and water", "means giving it food".
_COMPLEMENT = re.compile(r"\b(?:is|are|was|were|means|called) ((?:(?:an?|the|one|any) |(?=\w+ing\b))[^.,;:!?()]+)")
# A noun phrase that visibly ends: at punctuation or a function word, but not at a determiner, which may begin the
# object of a verb ("the yeast lifts the dough"). At the start of a clause it may contain a verb: see `_OPENS_CLAUSE`.
_NOUN = re.compile(
    rf"(?<=[\w'’] )(?:an?|the|its|their|his|her) {_RUN}(?: of (?:(?:an?|the) )?{_RUN})?"
    rf"(?=[.,;:!?)]|$| (?:{_STOPS})\b)"
)
_NAME = re.compile(r"(?<=[a-z,] )(?!Celsius|Fahrenheit)[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)*")
_OPENS_CLAUSE = re.compile(r"\b(?:and|or|but|so|if|when|while|because|that|which|than|as|where|until) $", re.IGNORECASE)
_POINTS_AT_TEXT = re.compile(r"\b(?:this|the|above|following) (?:text|passage|paragraph|sentence|notes?)\b", re.I)


class SpanItem(NamedTuple):
    """A drawn item: the answer, the passage that contains it, and the document's system prompt."""

    text: str
    passage: str
    system: str | None


@dataclass(slots=True)
class SpanQa:
    """The task; see `protocol.CheckedTask` for its methods. The prompts are messages, so it needs a chat template.

    A text is rejected if it is empty or not a question, contains the span, or refers to the text, which the trained
    model won't see. Raises DlmError (NoRowsError) if the documents' prose has no span.
    """

    documents: Sequence[Document]
    passage_words: int = PASSAGE  # in a prompt, at most; a small base copes better with short passages
    max_new_tokens: int = 40
    temperature: float = 0.7
    name: str = field(default="span_qa", init=False)
    prefix: str = field(default="", init=False)
    stop: tuple[str, ...] = field(default=("\n",), init=False)
    spans: list[SpanItem] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.spans = [
            SpanItem(span, passage, document.frontmatter.system_prompt)
            for document in self.documents
            for section in document.sections
            if section.kind == "prose"
            for passage in passages(section.content, self.passage_words)
            for span in spans(passage)
        ]
        if not self.spans:
            raise NoRowsError(
                "The notes have no prose with a number or noun phrase to ask about.",
                path=self.documents[0].path if self.documents else None,
                hint="Write full sentences, or use another task.",
            )

    def draw(self, rng: random.Random, n: int) -> list[SpanItem]:
        return [rng.choice(self.spans) for _ in range(n)]

    def prompts(self, items: Sequence[SpanItem]) -> list[str | Messages]:
        return [prompts.span_question_messages(item.passage, item.text) for item in items]

    def check_prompts(self, items: Sequence[SpanItem], generated: Sequence[str]) -> list[str | Messages]:
        rows = zip(items, generated, strict=True)
        return [prompts.span_check_messages(item.passage, question.strip()) for item, question in rows]

    def confirms(self, example: Example, reply: str) -> bool:
        """Whether the reply is the span, ignoring case, articles and surrounding punctuation."""
        return _normalize(reply) == _normalize(example.target)

    def examples(self, items: Sequence[SpanItem], generated: Sequence[str]) -> list[Example | Reject]:
        return [_row(item, text.strip()) for item, text in zip(items, generated, strict=True)]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        return accuracy(examples, predictions)


def spans(passage: str) -> list[str]:
    """Possible answers: numbers with their unit, noun phrases, names, and complements ("is a mix of …").

    Each occurs verbatim in the passage and has at most `MAX_SPAN` words. No duplicates, in the order of sentences.
    """
    all_spans = [span for sentence in sentences(passage) for span in _spans(sentence)]
    return list(dict.fromkeys(span for span in all_spans if len(span.split()) <= MAX_SPAN))


def passages(prose: str, longest: int = PASSAGE) -> list[str]:
    """The paragraphs of a prose section, without headings, tables and code.

    A paragraph of more than `longest` words is split between sentences; a longer sentence stays whole.
    """
    pieces: list[str] = []
    for paragraph in paragraphs(prose):
        piece: list[str] = []
        for sentence in paragraph:
            if piece and len(" ".join([*piece, sentence]).split()) > longest:
                pieces.append(" ".join(piece))
                piece = []
            piece.append(sentence)
        pieces.append(" ".join(piece))
    return pieces


def _spans(sentence: str) -> Iterator[str]:
    complements = {m.start(1): m[1].strip() for m in _COMPLEMENT.finditer(sentence)}
    yield from complements.values()
    yield from (m[0] for m in _NUMBER.finditer(sentence))
    for m in _NOUN.finditer(sentence):
        # Not the beginning of a complement: "a mix of flour" is only part of "a mix of flour and water".
        if m.start() not in complements and not _OPENS_CLAUSE.search(sentence[: m.start()]):
            yield m[0]
    yield from (m[0] for m in _NAME.finditer(sentence))


def _row(item: SpanItem, question: str) -> Example | Reject:
    if not question:
        return Reject("empty")
    if not question.endswith("?"):
        return Reject("not a question")
    if f" {_normalize(item.text)} " in f" {_normalize(question)} ":
        return Reject("contains the answer")
    if _POINTS_AT_TEXT.search(question):
        return Reject("refers to the text")
    system = [{"role": "system", "content": item.system}] if item.system else []
    return Example(
        prompt=[*system, {"role": "user", "content": question}],
        target=item.text,
        facts={"question": question, "span": item.text, "passage": item.passage},
        context=[*system, *prompts.span_check_messages(item.passage, question)],
    )


def _normalize(text: str) -> str:
    words = (word.strip(string.punctuation + "“”‘’").casefold() for word in text.split())
    return " ".join(word for word in words if word not in ("", "a", "an", "the"))
