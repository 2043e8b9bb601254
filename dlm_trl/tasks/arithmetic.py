"""Arithmetic with exact answers: `Arithmetic(operations="+-*", digits=2)`.

The answer is drawn first, then an expression with that value. A template turns the expression into a question, or
(`questions="base"`) the frozen base writes a question for the answer. Either way the question is parsed and evaluated,
and rejected unless it gives the answer, so a base that writes wrong questions wastes time but teaches nothing wrong.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable, Sequence
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
_OPERATORS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_SIGNS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/", "×": "*", "÷": "/", "−": "-", "–": "-"}
LONGEST = 200  # characters of an expression; a model that repeats itself writes longer ones
_EXPRESSION = re.compile(r"-?(?<!\d)\d+(?:\s*[-+*/]\s*\d+)+")
# Words allowed around the expression; any other might change the question: "the square of 3 + 4".
_PLAIN_WORDS = frozenset({
    "what", "is", "how", "much", "calculate", "compute", "evaluate", "find", "solve", "the", "value", "result", "of",
    "do", "you", "get", "for",
})  # fmt: skip
_TOKEN = re.compile(r"\d+|[-+*/]")


class ArithmeticItem(NamedTuple):
    """A drawn item: an answer, an expression with that value, and the template for its question."""

    answer: int
    expression: str
    template: str


@dataclass(slots=True)
class Arithmetic:
    """The task; see `protocol.Task` for its methods.

    operations: some of + - *; differences are never negative. digits: numbers go up to 10 ** digits - 1; this bounds
    the answer of a sum, the first number of a difference, and the factors of a product. Raises DlmError (UsageError).
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
            raise UsageError(f"Unknown operations {self.operations!r}.", hint="Give some of + - *, as one string.")
        if self.digits < 1:
            raise UsageError(f"digits is {self.digits}.", hint="Give 1 or more.")
        if self.questions == "base":
            self.max_new_tokens = 32
            self.prefix = "".join(f"Answer: {answer}\nQuestion: {question}\n\n" for answer, question in _FEW_SHOT)

    def draw(self, rng: random.Random, n: int) -> list[ArithmeticItem]:
        return [self._item(rng) for _ in range(n)]

    def prompts(self, items: Sequence[ArithmeticItem]) -> list[str | Messages]:
        return [f"{self.prefix}Answer: {item.answer}\nQuestion:" for item in items]

    def examples(self, items: Sequence[ArithmeticItem], generated: Sequence[str]) -> list[Example | Reject]:
        questions = generated if self.questions == "base" else [i.template.format(i.expression) for i in items]
        return [_row(item, question.strip()) for item, question in zip(items, questions, strict=True)]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
        return accuracy(examples, predictions)

    def _item(self, rng: random.Random) -> ArithmeticItem:
        sign, largest = rng.choice(self.operations), 10**self.digits - 1
        if sign == "*":
            left, right = rng.randint(2, largest), rng.randint(2, largest)
            answer = left * right  # the factors are drawn first: few answers have two of this size
        elif sign == "-":
            answer = rng.randint(0, largest)
            left = rng.randint(answer, largest)
            right = left - answer
        else:
            answer = rng.randint(0, largest)
            left = rng.randint(0, answer)
            right = answer - left
        return ArithmeticItem(answer, f"{left} {sign} {right}", rng.choice(TEMPLATES))


def calculate(text: str) -> Fraction | None:
    """The exact value of the expression in a question, written with digits and + - * / or the words for them.

    Products bind tighter than sums. None without an expression, for a division by zero, and if the question contains
    anything but plain words besides: more numbers, brackets, or words such as `half` and `square`.
    """
    for name, sign in _SIGNS.items():
        text = re.sub(rf"(?<!\w){name}(?!\w)" if name.isascii() else name, sign, text)
    expression = _EXPRESSION.search(text)
    around = re.sub(r"[.?!:\s]+", " ", _EXPRESSION.sub(" ", text, 1)).lower().split()
    if expression is None or len(expression[0]) > LONGEST or set(around) - _PLAIN_WORDS:
        return None
    try:
        return _evaluate(_TOKEN.findall(expression[0]))
    except ZeroDivisionError:
        return None


def _evaluate(tokens: list[str]) -> Fraction:
    for signs in ("+-", "*/"):  # split at the last operator that binds loosest
        for at in range(len(tokens) - 1, 0, -1):
            if tokens[at] in signs:
                return _OPERATORS[tokens[at]](_evaluate(tokens[:at]), _evaluate(tokens[at + 1 :]))
    return Fraction("".join(tokens))


def _row(item: ArithmeticItem, question: str) -> Example | Reject:
    if not question:
        return Reject("empty")
    value = calculate(question)
    if value is None:
        return Reject("no expression")
    if value != item.answer:
        return Reject("wrong")
    # The newline teaches the model where an answer of several tokens ends.
    return Example(f"Question: {question}\nAnswer:", f" {item.answer}\n", facts={"question": question})
