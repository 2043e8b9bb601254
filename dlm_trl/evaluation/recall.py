"""Answer recall: ask a model the questions of the notes, and compare its answers with those of the notes.

    recall = answer_recall(model, tokenizer, [("What is kneading?", "Pressing and folding a dough.", None)])
    recall.exact_match, recall.f1, recall.fuzzy, recall.answers

Answers are generated greedily, in batches, through the tokenizer's chat template. A prompt is everything that training
puts before the answer, such as Qwen3's empty think block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import answer_scores, chance_f1
from dlm_trl.models.chat import encode_questions
from dlm_trl.models.control_tokens import encode_texts
from dlm_trl.models.generate import generate_batches
from dlm_trl.models.prefix import PrefixCache

FUZZY_RATIO = 90.0  # of 100; about one wrong letter in ten
SPARE_TOKENS = 8  # more than the longest expected answer, to see whether an answer goes on

RecallQuestion = tuple[str, str, str | None]  # question, answer, system prompt


@dataclass(frozen=True, slots=True)
class Recall:
    """Scores from 0 to 1 over all questions, and the model's answers in the order of the questions.

    exact_match, f1 and chance_f1: see `dlm_trl.evaluation.answers`. fuzzy: the share of answers with an edit-distance
    ratio of at least 0.9, ignoring case.
    """

    exact_match: float
    f1: float
    chance_f1: float
    fuzzy: float
    answers: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """The scores by their names in reports."""
        return {"exact match": self.exact_match, "F1": self.f1, "fuzzy match": self.fuzzy}

    def right(self) -> dict[str, float]:
        """The number of right answers behind each score; for F1, without the part that comes from common words."""
        chance = {"F1": self.chance_f1}
        return {name: (share - chance.get(name, 0.0)) * len(self.answers) for name, share in self.shares().items()}


def answer_recall(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[RecallQuestion],
    advance: Callable[[int], object] | None = None,
) -> Recall:
    """Ask all questions and compare the answers with the expected ones.

    Answers are cut off a few tokens after the length of the longest expected one. advance is called after each batch
    with its number of answers. Raises ValueError for no questions, and DlmError (ChatTemplateError) without a chat
    template.
    """
    conversations = [messages(question, system) for question, _, system in questions]
    prompts = encode_questions(tokenizer, conversations, [answer for _, answer, _ in questions])
    return recall_after(model, tokenizer, prompts, questions, advance=advance)


def recall_after(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    questions: Sequence[RecallQuestion],
    prefix: PrefixCache | None = None,
    advance: Callable[[int], object] | None = None,
    new_tokens: int | None = None,
) -> Recall:
    """Like `answer_recall`, but with prompts given as token ids.

    prefix: the cached beginning of all prompts. new_tokens: where to cut off answers, by default as in `answer_recall`.
    """
    if not questions:
        raise ValueError("no questions to ask")
    limit = answer_tokens(tokenizer, questions) if new_tokens is None else new_tokens
    answers = answers_after(model, tokenizer, prompts, limit, prefix, advance)
    expected = [" ".join(answer.split()) for _, answer, _ in questions]
    close = [fuzz.ratio(a.lower(), b.lower()) >= FUZZY_RATIO for a, b in zip(answers, expected, strict=True)]
    return Recall(
        **answer_scores(answers, expected),
        chance_f1=chance_f1(answers, expected),
        fuzzy=sum(close) / len(close),
        answers=tuple(answers),
    )


def answers_after(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    prefix: PrefixCache | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[str]:
    """The answer to each prompt, of at most new_tokens tokens, with white space collapsed."""
    answers = [""] * len(prompts)
    for batch in generate_batches(model, tokenizer, prompts, new_tokens, prefix=prefix):
        for row in batch:
            answers[row.row] = " ".join(row.text.split())
        if advance:
            advance(len(batch))
    return answers


def answer_tokens(tokenizer: PreTrainedTokenizerBase, questions: Sequence[RecallQuestion]) -> int:
    """The maximum number of tokens of an answer."""
    return max(map(len, encode_texts(tokenizer, [answer for _, answer, _ in questions]))) + SPARE_TOKENS


def messages(question: str, system: str | None) -> list[dict[str, str]]:
    """The conversation that asks a question, starting with the system prompt if there is one."""
    user = [{"role": "user", "content": question}]
    return user if system is None else [{"role": "system", "content": system}, *user]
