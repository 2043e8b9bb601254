"""Multiple choice: does a question make its answer likelier than it makes other answers of the same document?

    result = choice_accuracy(model, tokenizer, [("What is a boule?", "A round loaf.", None), …])
    result.accuracy, result.low, result.high, result.chance

A small model that knows a fact may still fail to write it down; here it only has to recognise it. The options are the
right answer and three others that are nearest in length. The model picks the one whose log-probability gains most from
the question, compared with a prompt that asks nothing (`cloze.cloze_scores`). A question for a time or a reason often
has one option that is a time or a reason, so compare with the untrained base, not only with chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import normalize, token_f1
from dlm_trl.evaluation.cloze import cloze_scores
from dlm_trl.evaluation.recall import RecallQuestion, messages
from dlm_trl.models.chat import split_answers
from dlm_trl.models.generate import row_seed
from dlm_trl.models.score import log_probs

WRONG = 3  # options beside the right one
SIMILAR = 0.5  # token F1 with the right answer from which another answer may be right too
NEUTRAL = "?"  # the question of the prompt that asks nothing


class ChoiceQuestion(NamedTuple):
    """A question with its options; right: the index of the right one. system: the system prompt."""

    question: str
    options: tuple[str, ...]
    right: int
    system: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Shares from 0 to 1; `low` to `high` is the 95 % interval of `accuracy`, `chance` the accuracy of guessing."""

    accuracy: float
    low: float
    high: float
    chance: float
    questions: int


def choice_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[RecallQuestion],
    others: Iterable[str] = (),
    seed: int = 0,
) -> Choice:
    """Ask the questions as multiple choice. others: answers to draw wrong options from, beside those of the questions.

    Raises ValueError if no question has enough other answers for its options.
    """
    asked = choice_questions({"": questions}, others, seed)
    if not asked:
        raise ValueError(f"no question has {WRONG} other answers that could be its wrong options")
    return choice_accuracies(model, tokenizer, asked)[""]


def choice_questions(
    groups: Mapping[str, Sequence[RecallQuestion]], others: Iterable[str] = (), seed: int = 0
) -> dict[str, list[ChoiceQuestion]]:
    """The questions with options from the answers of all groups, and from others; the same for the same seed.

    The options of a question are distinct after normalisation. Left out are questions with fewer than WRONG other
    answers that are clearly different, and groups without any question left.
    """
    answers = [*(answer for questions in groups.values() for _, answer, _ in questions), *others]
    pool = list({normalize(answer): answer for answer in answers}.values())
    asked = {group: [_with_options(q, pool, seed) for q in questions] for group, questions in groups.items()}
    return {group: kept for group, every in asked.items() if (kept := [q for q in every if q is not None])}


def choice_accuracies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Mapping[str, Sequence[ChoiceQuestion]],
    ask: Callable[[str], str] = str,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Choice]:
    """The accuracy of each group, from one forward pass over each option with its question and one without.

    ask: puts a question into the user's message; all messages should begin alike, since their common beginning is
    computed once. advance is called with the number of rows that were just scored; all in all there are `rows(groups)`.
    Raises ValueError for a group without questions, and DlmError (ChatTemplateError) without a chat template.
    """
    every = [question for questions in groups.values() for question in questions]
    asking = [(q.question, q.system, option) for q in every for option in q.options]
    neutral = list(dict.fromkeys((NEUTRAL, system, option) for _, system, option in asking))
    scored = [*asking, *neutral]
    conversations = [
        [*messages(ask(text), system), {"role": "assistant", "content": option}] for text, system, option in scored
    ]
    encoded = split_answers(tokenizer, conversations, [""] * len(conversations))
    prompts, answers = zip(*((ids[:start], ids[start:]) for ids, start in encoded), strict=True)
    scores = log_probs(model, tokenizer, prompts, answers, advance=advance)
    total = {row: score.total for row, score in zip(scored, scores, strict=True)}
    return {group: _accuracy(questions, total) for group, questions in groups.items()}


def rows(groups: Mapping[str, Sequence[ChoiceQuestion]]) -> int:
    """The number of rows that `choice_accuracies` scores."""
    every = [question for questions in groups.values() for question in questions]
    neutral = {(question.system, option) for question in every for option in question.options}
    return sum(len(question.options) for question in every) + len(neutral)


def _accuracy(questions: Sequence[ChoiceQuestion], total: Mapping[tuple[str, str | None, str], float]) -> Choice:
    scores = cloze_scores(
        [[total[q.question, q.system, option] for option in q.options] for q in questions],
        [[total[NEUTRAL, q.system, option] for option in q.options] for q in questions],
        [q.right for q in questions],
    )
    return Choice(**scores, questions=len(questions))


def _with_options(question: RecallQuestion, pool: Sequence[str], seed: int) -> ChoiceQuestion | None:
    """The question with the other answers that are nearest in length, in random order; None if there are too few."""
    text, answer, system = question
    rng = random.Random(row_seed(seed, text, answer))
    wrong: list[str] = []
    for other in sorted(pool, key=lambda other: (abs(len(other) - len(answer)), rng.random())):
        if token_f1(other, answer) < SIMILAR:
            wrong.append(other)
        if len(wrong) == WRONG:
            right = rng.randrange(WRONG + 1)
            return ChoiceQuestion(text, (*wrong[:right], answer, *wrong[right:]), right, system)
    return None
