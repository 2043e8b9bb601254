"""Arithmetic with exact answers, as an online task: `Arithmetic(operations="+-*", digits=2)`.

The answer is drawn first, then an expression that has it. The question around the expression comes from a template, or
(`questions="base"`) the frozen base writes one for the answer. Either way the question is read back and calculated, and
a row is trained on only if it gives the answer: a base that writes wrong questions costs time, not truth.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple

from dlm_trl.notes.errors import UsageError
from dlm_trl.tasks.protocol import Example, Messages, Reject, accuracy

TEMPLATES = (
    "What is {}?",
    "How much is {}?",
    "Calculate {}.",
    "What do you get for {}?",
)
_FEW_SHOT = ((13, "What is 6 + 7?"), (4, "How much is 11 - 7?"), (24, "Calculate 8 * 3."), (30, "What is 12 + 18?"))
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_SIGNS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/", "×": "*", "÷": "/", "−": "-", "–": "-"}
_EXPRESSION = re.compile(r"-?\d+(?:\s*[-+*/]\s*\d+)+")
# What may stand around the expression; any other word might change what is asked: "the square of 3 + 4".
_AROUND = frozenset({
    "what", "is", "how", "much", "calculate", "compute", "evaluate", "find", "solve", "the", "value", "result", "of",
    "do", "you", "get", "for",
})  # fmt: skip
_TOKEN = re.compile(r"\d+|[-+*/]")


class Sum(NamedTuple):
    """What is drawn: an answer, an expression that has it, and the template that asks for it."""

    answer: int
    expression: str
    template: str


@dataclass(slots=True)
class Arithmetic:
    """The task; see `task.Task` for its methods.

    operations: which of + - * (differences are never negative). digits: of the larger numbers: up to 10 ** digits - 1
    as the answer of a sum, the first number of a difference, the factors of a product. Raises DlmError (UsageError) for
    other operations and for no digits.
    """

    operations: str = "+-"
    digits: int = 2
    questions: Literal["template", "base"] = "template"
    temperature: float = 0.8
    name: str = field(default="arithmetic", init=False)
    prefix: str = field(default="", init=False)
    stop: tuple[str, ...] = field(default=("\n",), init=False)
    max_new_tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.operations or set(self.operations) - set("+-*"):
            raise UsageError(
                f"Arithmetic knows no operations {self.operations!r}.", hint="Give some of + - *, as one string."
            )
        if self.digits < 1:
            raise UsageError(f"Numbers of {self.digits} digits cannot be added.", hint="Give 1 digit or more.")
        if self.questions == "base":
            self.max_new_tokens = 32
            self.prefix = "".join(f"Answer: {answer}\nQuestion: {asked}\n\n" for answer, asked in _FEW_SHOT)

    def draw(self, rng: random.Random, n: int) -> list[Sum]:
        return [self._sum(rng) for _ in range(n)]

    def prompts(self, items: Sequence[Sum]) -> list[str | Messages]:
        return [f"{self.prefix}Answer: {item.answer}\nQuestion:" for item in items]

    def examples(self, items: Sequence[Sum], generated: Sequence[str]) -> list[Example | Reject]:
        asked = generated if self.questions == "base" else [i.template.format(i.expression) for i in items]
        return [_row(item, question.strip()) for item, question in zip(items, asked, strict=True)]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        return accuracy(examples, predictions)

    def _sum(self, rng: random.Random) -> Sum:
        sign, largest = rng.choice(self.operations), 10**self.digits - 1
        if sign == "*":
            left, right = rng.randint(2, largest), rng.randint(2, largest)
            answer = left * right  # drawn as its factors: few numbers of this size have any
        elif sign == "-":
            answer = rng.randint(0, largest)
            left = rng.randint(answer, largest)
            right = left - answer
        else:
            answer = rng.randint(0, largest)
            left = rng.randint(0, answer)
            right = answer - left
        return Sum(answer, f"{left} {sign} {right}", rng.choice(TEMPLATES))


def calculate(text: str) -> Fraction | None:
    """The exact value of the one expression that a question asks for, in digits with + - * / or the words for them.

    Products come before sums. None for a text that holds no expression or divides by zero, and for one that holds
    anything else but the words of a plain question: other numbers, brackets, words such as `half` or `square`.
    """
    for name, sign in _SIGNS.items():
        text = re.sub(rf"(?<!\w){name}(?!\w)" if name.isascii() else name, sign, text)
    found = _EXPRESSION.search(text)
    if found is None or set(re.sub(r"[.?!:\s]+", " ", _EXPRESSION.sub(" ", text, 1)).lower().split()) - _AROUND:
        return None
    try:
        return _value(_TOKEN.findall(found[0]))
    except ZeroDivisionError:
        return None


def _value(tokens: list[str]) -> Fraction:
    for signs in ("+-", "*/"):  # what binds least is done last; of equals, the last is done last
        for at in range(len(tokens) - 1, 0, -1):
            if tokens[at] in signs:
                return _OPERATORS[tokens[at]](_value(tokens[:at]), _value(tokens[at + 1 :]))
    return Fraction("".join(tokens))


def _row(item: Sum, question: str) -> Example | Reject:
    if not question:
        return Reject("empty")
    value = calculate(question)
    if value is None:
        return Reject("no calculation")
    if value != item.answer:
        return Reject("wrong")
    # With the line's end, so that the model learns where an answer of several tokens ends.
    return Example(f"Question: {question}\nAnswer:", f" {item.answer}\n", facts={"question": question})
