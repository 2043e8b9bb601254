"""A baseline without labels: pick the option with the highest likelihood, and count the forward passes it takes.

    result = cloze(model, tokenizer, questions)     # the questions of `evaluation.mcsb`
    result.accuracy, result.passes                  # compare with measure_binding(…).accuracy and .passes

An option's likelihood after the description is divided by its likelihood without one, so that common words don't win
(Brown et al., "Language Models are Few-Shot Learners", 2020, section 2.4). That takes one forward pass for each option
of each question, and one for each distinct option. An answer by label takes one pass per question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.mcsb import McsbQuestion, wilson
from dlm_trl.models.control_tokens import encode_texts
from dlm_trl.models.score import log_probs

LEAD = "Word:"  # comes before an option, with and without a description


@dataclass(frozen=True, slots=True)
class Cloze:
    """Shares from 0 to 1; `low` to `high` is the 95 % interval of `accuracy`."""

    accuracy: float  # by the ratio of conditional to unconditional likelihood
    low: float
    high: float
    chance: float
    plain: float  # accuracy by the conditional likelihood per token alone
    questions: int
    passes: int  # forward passes of one row each; single-token options of a question could share one

    @property
    def passes_per_question(self) -> float:
        """An answer by label takes 1."""
        return self.passes / self.questions


def cloze(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[McsbQuestion]
) -> Cloze:
    """Pick the likeliest option of each question, independent of labels and the order of options.

    Raises ValueError for no questions.
    """
    if not questions:
        raise ValueError("no questions to ask")
    words = {option: _tokens_after_lead(tokenizer, option) for question in questions for option in question.options}
    rows = [(question.description, option) for question in questions for option in question.options]
    after = log_probs(
        model, tokenizer, [f"Description: {text}\n{LEAD}" for text, _ in rows], [words[option] for _, option in rows]
    )
    alone = dict(zip(words, log_probs(model, tokenizer, [LEAD] * len(words), list(words.values())), strict=True))
    remaining = iter(after)
    scores = [[next(remaining) for _ in question.options] for question in questions]
    right = [list(question.options).index(question.word) for question in questions]
    means = [[score.mean for score in of_question] for of_question in scores]
    return Cloze(
        **cloze_scores(
            [[score.total for score in of_question] for of_question in scores],
            [[alone[option].total for option in question.options] for question in questions],
            right,
        ),
        plain=fmean(m.index(max(m)) == r for m, r in zip(means, right, strict=True)),
        questions=len(questions),
        passes=len(after) + len(alone),
    )


def cloze_scores(
    conditional: Sequence[Sequence[float]], unconditional: Sequence[Sequence[float]], right: Sequence[int]
) -> dict[str, float]:
    """accuracy of picking the option whose log-probability gains most from the question; low, high: its 95 % interval.

    conditional, unconditional: for each question, the log-probabilities of its options with and without the question.
    right: the index of the right option. Also returns chance, the accuracy of guessing. Raises ValueError for no
    questions and for lists of different lengths.
    """
    if not right:
        raise ValueError("no questions to score")
    gains = [[c - u for c, u in zip(*pair, strict=True)] for pair in zip(conditional, unconditional, strict=True)]
    accuracy = fmean(gain.index(max(gain)) == r for gain, r in zip(gains, right, strict=True))
    low, high = wilson(accuracy, len(right))
    return {"accuracy": accuracy, "low": low, "high": high, "chance": fmean(1 / len(gain) for gain in gains)}


def _tokens_after_lead(tokenizer: PreTrainedTokenizerBase, option: str) -> list[int]:
    """The option's tokens after the lead; some tokenizers give another first token at the start of a text."""
    texts = (LEAD, f"{LEAD} {option}")
    lead, whole = encode_texts(tokenizer, texts)
    if whole[: len(lead)] != lead or len(whole) == len(lead):
        raise ValueError(f"the tokenizer merges {LEAD!r} with the option {option!r}")
    return whole[len(lead) :]
