"""Preferences: how likely a model finds the chosen and the rejected answer of each row, and what follows from that.

    before = score_preferences(model, tokenizer, rows)          # rows: tokens, from `PreferenceTokens.of`
    …                                                           # training
    after = score_preferences(model, tokenizer, rows)
    preference_measures("held-out", reference=before, before=before, after=after, beta=0.1)

A row's *reward* is beta times how much likelier the model finds an answer than the reference does (Rafailov et al.,
"Direct Preference Optimization", 2023); the *margin* is the reward of the chosen answer minus that of the rejected one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.advice import CLEARLY, forgetting
from dlm_trl.evaluation.mcsb import wilson
from dlm_trl.evaluation.numbers import Measure, number
from dlm_trl.models.chat import split_answers
from dlm_trl.models.score import Score, log_probs

ACCURACY, MARGIN = "reward accuracy", "reward margin"
LIKELIER, CHOSEN = "chosen likelier than rejected", "log-probability of chosen"
TRAINED = "trained"  # the group of rows that are trained on
LEARNED = 0.9  # reward accuracy on trained rows that a sufficient run reaches
FELL = 0.05  # of F1, that a run on preferences should not cost
DISPLACED = 1.0  # nats per token by which the chosen answers may get less likely

Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class PreferenceTokens:
    """Token ids of the rows of one group: each prompt, and both answers after it."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, Sequence[Conversation]], places: Sequence[str]
    ) -> PreferenceTokens:
        """rows: with the columns prompt, chosen and rejected. Raises DlmError (ChatTemplateError)."""
        sides = []
        for side in ("chosen", "rejected"):
            conversations = [[*prompt, *answer] for prompt, answer in zip(rows["prompt"], rows[side], strict=True)]
            sides.append(split_answers(tokenizer, conversations, places))
        chosen, rejected = sides
        return cls(
            prompts=[ids[:start] for ids, start in chosen],
            chosen=[ids[start:] for ids, start in chosen],
            rejected=[ids[start:] for ids, start in rejected],
        )


@dataclass(frozen=True)
class PreferenceScores:
    """Log-probabilities of the answers of each row, in nats: of the whole answer, and per token."""

    chosen: list[float]
    rejected: list[float]
    chosen_per_token: list[float]
    rejected_per_token: list[float]


def score_preferences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: PreferenceTokens,
    advance: Callable[[int], object] | None = None,
) -> PreferenceScores:
    """Score both answers of every row. advance: called after each batch with its number of answers."""
    scores = log_probs(
        model, tokenizer, [*rows.prompts, *rows.prompts], [*rows.chosen, *rows.rejected], advance=advance
    )
    chosen, rejected = scores[: len(rows.prompts)], scores[len(rows.prompts) :]
    return PreferenceScores(_totals(chosen), _totals(rejected), _means(chosen), _means(rejected))


def margins(scores: PreferenceScores, reference: PreferenceScores, beta: float) -> list[float]:
    """The reward margin of each row."""
    columns = zip(scores.chosen, reference.chosen, scores.rejected, reference.rejected, strict=True)
    return [beta * ((chosen - was) - (rejected - other)) for chosen, was, rejected, other in columns]


def preference_measures(
    group: str, reference: PreferenceScores, before: PreferenceScores | None, after: PreferenceScores, beta: float
) -> list[Measure]:
    """The rows of the report about one group of preference rows. before: None if it is lost."""
    was, now = (margins(scores, reference, beta) if scores else None for scores in (before, after))
    assert now is not None
    count = len(now)
    low, high = wilson(_share(now), count)
    compared = _likelier(before) if before else None
    return [
        Measure(
            f"{ACCURACY}, {group}", "share", _share(was) if was else None, _share(now), None, low, high, None, count
        ),
        Measure(f"{LIKELIER}, {group}", "share", compared, _likelier(after), questions=count),
        Measure(f"{MARGIN}, {group}", "nats", fmean(was) if was else None, fmean(now), questions=count),
        Measure(
            f"{CHOSEN}, {group}",
            "nats per token",
            fmean(before.chosen_per_token) if before else None,
            fmean(after.chosen_per_token),
            questions=count,
        ),
    ]


def advise_preferences(measures: Sequence[Measure]) -> list[str]:
    """What to do next, from the numbers of a run on preferences: one to three sentences.

    Recall that fell first, then rewards that weren't learned, chosen answers that got less likely, and forgetting.
    """
    named = {measure.name: measure for measure in measures}
    sentences = [*_recall(measures), *_learning(named), *_displaced(named), *forgetting(named)]
    return sentences[:3] or ["No rule asks for a change: the preferences are learned, and recall is kept."]


def _recall(measures: Sequence[Measure]) -> list[str]:
    fell = [
        f"{m.name.removeprefix('F1, ')} {number(m.before, 'share')} to {number(m.after, 'share')}"
        for m in measures
        if m.name.startswith("F1, ") and m.before is not None and m.after is not None and m.before - m.after > FELL
    ]
    if not fell:
        return []
    return [
        f"Recall of the notes fell (F1, {'; '.join(fell)}): lower learning_rate or num_train_epochs, raise beta, or "
        "add the loss sft (loss_type: [sigmoid, sft])."
    ]


def _learning(named: Mapping[str, Measure]) -> list[str]:
    trained = named.get(f"{ACCURACY}, {TRAINED}")
    held_out = named.get(f"{ACCURACY}, held-out")
    if trained and trained.after is not None and trained.after < LEARNED:
        return [
            f"The preferences aren't learned yet (reward accuracy {number(trained.after, 'share')} on trained rows): "
            "train more epochs, or raise learning_rate."
        ]
    if held_out and held_out.high is not None and held_out.high < 1 - CLEARLY and held_out.after is not None:
        return [
            f"It doesn't carry over to held-out rows (reward accuracy {number(held_out.after, 'share')}): "
            "write more rows, about more questions."
        ]
    return []


def _displaced(named: Mapping[str, Measure]) -> list[str]:
    chosen = named.get(f"{CHOSEN}, {TRAINED}")
    if chosen is None or chosen.before is None or chosen.after is None or chosen.before - chosen.after < DISPLACED:
        return []
    return [
        "The chosen answers got less likely, too, only less so than the rejected ones: lower learning_rate or "
        "num_train_epochs, or add the loss sft (loss_type: [sigmoid, sft])."
    ]


def _likelier(scores: PreferenceScores) -> float:
    pairs = zip(scores.chosen_per_token, scores.rejected_per_token, strict=True)
    return fmean(chosen > rejected for chosen, rejected in pairs)


def _share(values: Sequence[float]) -> float:
    """The share above 0."""
    return fmean(value > 0 for value in values)


def _totals(scores: Sequence[Score]) -> list[float]:
    return [score.total for score in scores]


def _means(scores: Sequence[Score]) -> list[float]:
    return [score.mean for score in scores]
