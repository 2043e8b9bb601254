"""Answer recall: how many questions of the notes a model answers with the words of the notes.

    recall = answer_recall(model, tokenizer, [("What is kneading?", "Pressing and folding a dough.", None)])
    recall.exact, recall.fuzzy, recall.answers

Answers are generated greedily, in batches, through the tokenizer's chat template.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.generate import generate

FUZZY_RATIO = 90.0  # of 100; about one wrong letter in ten
SPARE_TOKENS = 8  # an answer that goes on after the expected one is seen to do so

Question = tuple[str, str, str | None]  # question, answer, system prompt


@dataclass(frozen=True, slots=True)
class Recall:
    """Shares of 0 to 1 over all questions, and what the model said to each, in the order of the questions.

    `exact`: the same text but for white space. `fuzzy`: an edit-distance ratio of 0.9 or more, letter case ignored.
    """

    exact: float
    fuzzy: float
    answers: tuple[str, ...]


def answer_recall(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> Recall:
    """Ask every (question, answer, system prompt or None) and compare what comes back with the answer.

    An answer is cut a few tokens after the length of the longest expected one. Raises ValueError for no questions, and
    for a tokenizer without a chat template.
    """
    if not questions:
        raise ValueError("no questions to ask: a share of nothing is not a number")
    prompts = [
        tokenizer.apply_chat_template(messages(question, system), add_generation_prompt=True, return_dict=False)
        for question, _, system in questions
    ]
    longest = max(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for _, answer, _ in questions)
    said = [" ".join(text.split()) for text in generate(model, tokenizer, prompts, longest + SPARE_TOKENS)]
    pairs = [(text, " ".join(answer.split())) for text, (_, answer, _) in zip(said, questions, strict=True)]
    return Recall(
        exact=sum(text == answer for text, answer in pairs) / len(pairs),
        fuzzy=sum(fuzz.ratio(text.lower(), answer.lower()) >= FUZZY_RATIO for text, answer in pairs) / len(pairs),
        answers=tuple(said),
    )


def messages(question: str, system: str | None) -> list[dict[str, str]]:
    """The conversation in which a question is asked, with the system prompt in front where there is one."""
    asked = [{"role": "user", "content": question}]
    return asked if system is None else [{"role": "system", "content": system}, *asked]
