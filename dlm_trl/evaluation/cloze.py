"""The baseline without labels: which option is the likeliest text, and what does it cost to find out?

    found = cloze(model, tokenizer, asked)      # the questions of `evaluation.mcsb`
    found.accuracy, found.passes                # beside measure_binding(…).accuracy and .passes

An option's likelihood after the description is divided by its likelihood without one, lest common words win (Brown et
al., "Language Models are Few-Shot Learners", 2020, section 2.4). That takes a forward pass for every option of every
question and one more for every different option, where the answer by label takes a single one for each question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.mcsb import McsbQuestion, wilson
from dlm_trl.models.score import log_probs

LEAD = "Word:"  # what stands before an option, with and without a description


@dataclass(frozen=True, slots=True)
class Cloze:
    """Shares of 0 to 1. `low` to `high` is the 95 % interval around `accuracy`."""

    accuracy: float  # by likelihood divided by unconditional likelihood
    low: float
    high: float
    chance: float
    plain: float  # accuracy by likelihood per token alone
    questions: int
    passes: int  # forward passes of one row each; options that are one token could share one for a question

    @property
    def passes_per_question(self) -> float:
        """Beside 1 for an answer by label."""
        return self.passes / self.questions


def cloze(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[McsbQuestion]
) -> Cloze:
    """Pick the likeliest option of every question; labels and order of the options play no part.

    Raises ValueError for no questions.
    """
    if not asked:
        raise ValueError("no questions: a share of nothing is not a number")
    words = {option: _tokens_after_lead(tokenizer, option) for question in asked for option in question.options}
    rows = [(question.description, option) for question in asked for option in question.options]
    after = log_probs(
        model, tokenizer, [f"Description: {text}\n{LEAD}" for text, _ in rows], [words[option] for _, option in rows]
    )
    alone = dict(zip(words, log_probs(model, tokenizer, [LEAD] * len(words), list(words.values())), strict=True))
    left = iter(after)
    scores = [[next(left) for _ in question.options] for question in asked]
    right = [list(question.options).index(question.word) for question in asked]
    plain = [max(range(len(own)), key=lambda k, own=own: own[k].mean) for own in scores]
    return Cloze(
        **cloze_scores(
            [[score.total for score in own] for own in scores],
            [[alone[option].total for option in question.options] for question in asked],
            right,
        ),
        plain=fmean(k == r for k, r in zip(plain, right, strict=True)),
        questions=len(asked),
        passes=len(after) + len(alone),
    )


def cloze_scores(
    conditional: Sequence[Sequence[float]], unconditional: Sequence[Sequence[float]], right: Sequence[int]
) -> dict[str, float]:
    """accuracy of the options whose log-probability gains most by the question, its 95 % interval low to high, chance.

    Log-probabilities of each question's options, with the question and without, and the index of the right option.
    Raises ValueError for no questions, and for lists of different lengths.
    """
    if not right:
        raise ValueError("no questions: a share of nothing is not a number")
    gained = [[c - u for c, u in zip(*own, strict=True)] for own in zip(conditional, unconditional, strict=True)]
    accuracy = fmean(own.index(max(own)) == r for own, r in zip(gained, right, strict=True))
    low, high = wilson(accuracy, len(right))
    return {"accuracy": accuracy, "low": low, "high": high, "chance": fmean(1 / len(own) for own in gained)}


def _tokens_after_lead(tokenizer: PreTrainedTokenizerBase, option: str) -> list[int]:
    """The option's tokens as they stand behind the lead, where some tokenizers write another first one."""
    lead, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (LEAD, f"{LEAD} {option}"))
    if whole[: len(lead)] != lead or len(whole) == len(lead):
        raise ValueError(f"this tokenizer does not keep {option!r} apart from {LEAD!r} before it")
    return whole[len(lead) :]
