"""Questions about the prose of notes, as an online task: `ProseQa([read("notes.dlm")])`.

A span of a prose section is drawn first, by rule (`spans`); the frozen base, with the prose before it, writes a
question for it; asked that question with the prose, the base has to give the span back (`check_prompts`). Trained on is
the question and the span *without* the prose, so that what the prose says goes into the weights. No authored pair is
used.
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
from dlm_trl.tasks import prompts
from dlm_trl.tasks.protocol import Example, Messages, Reject, accuracy

LONGEST = 16  # words of a span
PASSAGE = 120  # words of a passage, unless said otherwise

# English function words: a noun phrase ends before them.
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
_COUNT = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand|million"
_NUMBER = re.compile(rf"\b(?:\d+(?:[.,:/]\d+)*|{_COUNT})\b(?:\s?[%°]\w?| {_WORD}(?: Celsius| Fahrenheit)?)?")
# What something is said to be: "is a mix of flour and water", "means giving it food", up to the end of the clause.
_COMPLEMENT = re.compile(r"\b(?:is|are|was|were|means|called) ((?:(?:an?|the|one|any) |(?=\w+ing\b))[^.,;:!?()]+)")
# With an end that can be seen: behind it comes a mark or a function word. A determiner would be the object of a verb,
# "the yeast lifts the dough", and at the head of a clause there is a verb soon, too: see `_OPENS_CLAUSE`.
_NOUN = re.compile(
    rf"(?<=[\w'’] )(?:an?|the|its|their|his|her) {_RUN}(?: of (?:(?:an?|the) )?{_RUN})?"
    rf"(?=[.,;:!?)]|$| (?:{_STOPS})\b)"
)
_NAME = re.compile(r"(?<=[a-z,] )(?!Celsius|Fahrenheit)[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)*")
_OPENS_CLAUSE = re.compile(r"\b(?:and|or|but|so|if|when|while|because|that|which|than|as|where|until) $", re.IGNORECASE)
_POINTS_AT_TEXT = re.compile(r"\b(?:this|the|above|following) (?:text|passage|paragraph|sentence|notes?)\b", re.I)


class Span(NamedTuple):
    """What is drawn: the answer, the passage that it stands in, and the system prompt of its document."""

    text: str
    passage: str
    system: str | None


@dataclass(slots=True)
class ProseQa:
    """The task; see `task.Task` and `task.CheckedTask` for its methods. Prompts are messages: it needs a chat template.

    A question is rejected when it is empty, is none, names the span, or speaks of the text, which will not be there.
    Raises DlmError (NoRowsError) if the documents' prose has no span.
    """

    documents: Sequence[Document]
    passage_words: int = PASSAGE  # the longest passage that the base is shown; a small base understands short ones
    max_new_tokens: int = 40
    temperature: float = 0.7
    name: str = field(default="prose_qa", init=False)
    prefix: str = field(default="", init=False)
    stop: tuple[str, ...] = field(default=("\n",), init=False)
    spans: list[Span] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.spans = [
            Span(span, passage, document.frontmatter.system_prompt)
            for document in self.documents
            for section in document.sections
            if section.kind == "prose"
            for passage in passages(section.content, self.passage_words)
            for span in spans(passage)
        ]
        if not self.spans:
            raise NoRowsError(
                "The notes have no prose with a number or noun phrase that could be asked for.",
                path=self.documents[0].path if self.documents else None,
                hint="Write sentences, or use another task.",
            )

    def draw(self, rng: random.Random, n: int) -> list[Span]:
        return [rng.choice(self.spans) for _ in range(n)]

    def prompts(self, items: Sequence[Span]) -> list[str | Messages]:
        return [prompts.span_question_messages(item.passage, item.text) for item in items]

    def check_prompts(self, items: Sequence[Span], generated: Sequence[str]) -> list[str | Messages]:
        rows = zip(items, generated, strict=True)
        return [prompts.span_check_messages(item.passage, question.strip()) for item, question in rows]

    def confirms(self, example: Example, reply: str) -> bool:
        """Whether the reply is the span, but for letter case, articles and the marks around it."""
        return _plain(reply) == _plain(example.target)

    def examples(self, items: Sequence[Span], generated: Sequence[str]) -> list[Example | Reject]:
        return [_row(item, text.strip()) for item, text in zip(items, generated, strict=True)]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        return accuracy(examples, predictions)


def spans(passage: str) -> list[str]:
    """What can be asked for: numbers with their unit, noun phrases, names, and what something is said to be.

    Each stands in the passage word for word, has at most `LONGEST` words, and comes once, in the order of sentences.
    """
    found = [span for sentence in _sentences(passage) for span in _spans(sentence)]
    return list(dict.fromkeys(span for span in found if len(span.split()) <= LONGEST))


def passages(prose: str, longest: int = PASSAGE) -> list[str]:
    """The paragraphs of a prose section, without headings, tables and code.

    Long ones come in pieces of whole sentences, of at most `longest` words unless one sentence has more.
    """
    text = re.sub(r"^(```|~~~).*?(^\1\s*$|\Z)", "", prose, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\s*(?:#|\|).*$", "", text, flags=re.MULTILINE)
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        piece: list[str] = []
        for sentence in _sentences(" ".join(paragraph.split())):
            if piece and len(" ".join([*piece, sentence]).split()) > longest:
                pieces.append(" ".join(piece))
                piece = []
            piece.append(sentence)
        pieces.append(" ".join(piece))
    return [piece for piece in pieces if piece]


def _spans(sentence: str) -> Iterator[str]:
    complements = {m.start(1): m[1].strip() for m in _COMPLEMENT.finditer(sentence)}
    yield from complements.values()
    yield from (m[0] for m in _NUMBER.finditer(sentence))
    for m in _NOUN.finditer(sentence):
        # The first words of a complement would be half of a thing: "a mix of flour" of "a mix of flour and water".
        if m.start() not in complements and not _OPENS_CLAUSE.search(sentence[: m.start()]):
            yield m[0]
    yield from (m[0] for m in _NAME.finditer(sentence))


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[^\Wa-z])", text.strip()) if s]


def _row(item: Span, question: str) -> Example | Reject:
    if not question:
        return Reject("empty")
    if not question.endswith("?"):
        return Reject("no question")
    if f" {_plain(item.text)} " in f" {_plain(question)} ":
        return Reject("names the answer")
    if _POINTS_AT_TEXT.search(question):
        return Reject("speaks of the text")
    system = [{"role": "system", "content": item.system}] if item.system else []
    return Example(
        prompt=[*system, {"role": "user", "content": question}],
        target=item.text,
        facts={"question": question, "span": item.text, "passage": item.passage},
    )


def _plain(text: str) -> str:
    words = (word.strip(string.punctuation + "“”‘’").casefold() for word in text.split())
    return " ".join(word for word in words if word not in ("", "a", "an", "the"))
