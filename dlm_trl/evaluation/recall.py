"""Answer recall: how well a model answers the questions of the notes, compared with the answers of the notes.

    recall = answer_recall(model, tokenizer, [("What is kneading?", "Pressing and folding a dough.", None)])
    recall.exact_match, recall.f1, recall.fuzzy, recall.answers

Answers are generated greedily, in batches, through the tokenizer's chat template.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import answer_scores, chance_f1
from dlm_trl.models.chat import encode
from dlm_trl.models.generate import generate_batches
from dlm_trl.models.prefix import PrefixCache

FUZZY_RATIO = 90.0  # of 100; about one wrong letter in ten
SPARE_TOKENS = 8  # an answer that goes on after the expected one is seen to do so

RecallQuestion = tuple[str, str, str | None]  # question, answer, system prompt


@dataclass(frozen=True, slots=True)
class Recall:
    """Shares of 0 to 1 over all questions, and what the model said to each, in the order of the questions.

    exact_match, f1: see `dlm_trl.evaluation.answers`. chance_f1: the F1 of the same answers with those expected of the
    other questions. fuzzy: the share with an edit-distance ratio of 0.9 or more, letter case ignored.
    """

    exact_match: float
    f1: float
    chance_f1: float
    fuzzy: float
    answers: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """The shares under the names that reports use."""
        return {"exact match": self.exact_match, "F1": self.f1, "fuzzy match": self.fuzzy}

    def right(self) -> dict[str, float]:
        """How many right answers each share comes to, without what chance gives: F1 counts words that many share."""
        chance = {"F1": self.chance_f1}
        return {name: (share - chance.get(name, 0.0)) * len(self.answers) for name, share in self.shares().items()}


def answer_recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[RecallQuestion],
    advance: Callable[[int], object] | None = None,
) -> Recall:
    """Ask every (question, answer, system prompt or None) and compare what comes back with the answer.

    An answer is cut a few tokens after the length of the longest expected one. advance is called with the number of
    answers whenever some are there. Raises ValueError for no questions, and for a tokenizer without a chat template.
    """
    prompts = [encode(tokenizer, messages(question, system)) for question, _, system in questions]
    return recall_after(model, tokenizer, prompts, questions, advance=advance)


def recall_after(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    questions: Sequence[RecallQuestion],
    prefix: PrefixCache | None = None,
    advance: Callable[[int], object] | None = None,
) -> Recall:
    """As `answer_recall`, with the prompts (token ids) in which the questions are asked; prefix as in generation."""
    if not questions:
        raise ValueError("no questions to ask: a share of nothing is not a number")
    said = [""] * len(questions)
    for batch in generate_batches(model, tokenizer, prompts, answer_tokens(tokenizer, questions), prefix=prefix):
        for row in batch:
            said[row.index] = " ".join(row.text.split())
        if advance:
            advance(len(batch))
    expected = [" ".join(answer.split()) for _, answer, _ in questions]
    close = [fuzz.ratio(a.lower(), b.lower()) >= FUZZY_RATIO for a, b in zip(said, expected, strict=True)]
    return Recall(
        **answer_scores(said, expected),
        chance_f1=chance_f1(said, expected),
        fuzzy=sum(close) / len(close),
        answers=tuple(said),
    )


def answer_tokens(tokenizer: PreTrainedTokenizerBase, questions: Sequence[RecallQuestion]) -> int:
    """How many tokens an answer may have."""
    longest = max(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for _, answer, _ in questions)
    return longest + SPARE_TOKENS


def messages(question: str, system: str | None) -> list[dict[str, str]]:
    """The conversation in which a question is asked, with the system prompt in front where there is one."""
    asked = [{"role": "user", "content": question}]
    return asked if system is None else [{"role": "system", "content": system}, *asked]
