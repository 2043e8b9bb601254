"""Questions about the sentences of notes: `ProseQa([read("notes.dlm")])`.

A sentence and the first words of a question about it are drawn first, by rule (`dlm_trl.asking`). The frozen base
finishes the question, as the last of a list of examples; a question that can't be right by its words is rejected. The
answer is the sentence, without what the question has said already. If it's sure what the sentence is about, one way to
ask is from the other side, by rule to the last word: "What keeps the skin soft?". The training row is question and
answer *without* the prose, which moves the content of the notes into the weights. Hand-written pairs aren't used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dlm_trl.asking.facts import Fact, facts
from dlm_trl.asking.language import is_english
from dlm_trl.asking.openings import BARE, openings, reverse_question
from dlm_trl.asking.prompts import question_list, question_list_prefix
from dlm_trl.asking.questions import finished, problem
from dlm_trl.asking.short_answers import shortened
from dlm_trl.notes import Document
from dlm_trl.notes.errors import NoRowsError
from dlm_trl.tasks import prompts
from dlm_trl.tasks.protocol import Example, Messages, Reject, accuracy


class ProseItem(NamedTuple):
    """A drawn item: the fact, how the question about it begins, and the document's system prompt.

    answer: to a whole question that a rule wrote, or None if the base finishes the question.
    """

    fact: Fact
    opening: str
    answer: str | None
    system: str | None


@dataclass(slots=True)
class ProseQa:
    """The task; see `protocol.Task` for its methods. The prompts are plain text.

    Sentences about which a rule knows how to ask are drawn equally often, and so are the ways to ask about each. Raises
    DlmError (NoRowsError) if there are none; the rules read English.
    """

    documents: Sequence[Document]
    max_new_tokens: int = 24
    temperature: float = 0.7
    name: str = field(default="prose_qa", init=False)
    prefix: str = field(default=question_list_prefix(), init=False)
    stop: tuple[str, ...] = field(default=("?", "\n"), init=False)
    sentences: list[list[ProseItem]] = field(init=False, repr=False)  # the ways to ask about each

    def __post_init__(self) -> None:
        self.sentences = [
            ways
            for document in self.documents
            for section in document.sections
            if section.kind == "prose" and is_english(section.content)
            for fact in facts(section.content)
            if (ways := _ways(fact, document.frontmatter.system_prompt))
        ]
        if not self.sentences:
            raise NoRowsError(
                "The notes have no sentence that a rule knows how to ask about.",
                path=self.documents[0].path if self.documents else None,
                hint="Write full English sentences, or use another task.",
            )

    def draw(self, rng: random.Random, n: int) -> list[ProseItem]:
        return [rng.choice(rng.choice(self.sentences)) for _ in range(n)]

    def prompts(self, items: Sequence[ProseItem]) -> list[str | Messages]:
        return [question_list(item.fact.context, item.opening) for item in items]

    def examples(self, items: Sequence[ProseItem], generated: Sequence[str]) -> list[Example | Reject]:
        return [_row(item, text) for item, text in zip(items, generated, strict=True)]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        return accuracy(examples, predictions)


def _ways(fact: Fact, system: str | None) -> list[ProseItem]:
    """How to ask about a fact: what a rule is sure of, else the words that fit any sentence."""
    found = openings(fact.sentence, fact.names)
    ways = [ProseItem(fact, opening, None, system) for opening in found if opening not in BARE]
    if reverse := reverse_question(fact.sentence):
        ways.append(ProseItem(fact, *reverse, system))
    return ways or [ProseItem(fact, opening, None, system) for opening in found]


def _row(item: ProseItem, text: str) -> Example | Reject:
    fact, question = item.fact, item.opening
    if item.answer is None:
        question = _finished(item.opening, text)
        if wrong := problem(question, fact, item.opening):
            return Reject(wrong.partition(":")[0])  # without the words, so that equal reasons are counted together
    system = [{"role": "system", "content": item.system}] if item.system else []
    return Example(
        prompt=[*system, {"role": "user", "content": question}],
        target=item.answer or shortened(question, fact.sentence),
        facts={"question": question, "sentence": fact.sentence},
        context=[*system, {"role": "user", "content": prompts.open_book(" ".join(fact.nearby), question)}],
    )


def _finished(opening: str, text: str) -> str:
    """The base continues the opening. A teacher that gets the list in a message may repeat it."""
    if text.lower().removeprefix("question:").strip().startswith(opening.lower()):
        return finished(text)
    space = "" if text[:1] in ("", " ", "'", "’") else " "
    return finished(f"{opening}{space}{text}".rstrip())
