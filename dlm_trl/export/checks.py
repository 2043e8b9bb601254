"""Numbers that compare the model after a step with the one before it, each with its limit if it has one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from dlm_trl.evaluation.report import markdown_table
from dlm_trl.export.limits import ANSWERS_END, METRIC_KEPT, TIED, Limit
from dlm_trl.export.model_outputs import Answer, ModelOutputs

RESAMPLES = 10_000  # of the bootstrap
ENOUGH_RIGHT = 20  # right answers; with fewer, a single one is more than the 5 % that may be lost
ENOUGH_TEXTS = 6  # with fewer, all can be worse by chance in more than 5 % of cases (sign test)
TextLosses = Sequence[tuple[float, int]]  # for each text: nats, summed over its tokens, and the number of tokens


@dataclass(frozen=True)
class Check:
    """One row of the table. `value` is what the limit applies to; without a limit, a number is only reported."""

    name: str
    value: float | None
    limit: str = ""
    passed: bool = True
    before: float | None = None
    after: float | None = None
    rounding: float | None = None
    failing: str = ""


def check(
    limit: Limit,
    value: float,
    name: str | None = None,
    *,
    before: float | None = None,
    after: float | None = None,
    rounding: float | None = None,
) -> Check:
    """Check a value against a limit; the row is called `name`, by default like the limit."""
    passed = limit.holds(value)
    failing = "" if passed else limit.failing
    return Check(name or limit.name, value, str(limit), passed, before, after, rounding, failing)


def table(checks: Sequence[Check]) -> str:
    """A Markdown table, aligned so that it's readable in a terminal too."""
    columns = [name for name in ("before", "rounding", "after") if any(getattr(c, name) is not None for c in checks)]
    rows = [
        (
            c.name,
            *(_number(getattr(c, name)) for name in columns),
            _number(c.value),
            c.limit,
            "" if not c.limit else "ok" if c.passed else f"FAILED: {c.failing}",
        )
        for c in checks
    ]
    return markdown_table(("check", *columns, "value", "limit", ""), rows, numbers_from=1)


def logit_deviation(outputs: ModelOutputs) -> float:
    """The standard deviation of the logits, over all positions and the whole vocabulary."""
    logits = outputs.logits()
    count = sum(text.size for text in logits)
    mean = sum(text.sum(dtype=numpy.float64) for text in logits) / count
    return float(numpy.sqrt(sum(numpy.square(text - mean, dtype=numpy.float64).sum() for text in logits) / count))


def logit_differences(before: ModelOutputs, after: ModelOutputs) -> tuple[float, float, float]:
    """Mean and largest difference of the logits, and the share of positions with the same most likely token.

    A token tied with the most likely one counts as the same. If the vocabularies were padded to different sizes,
    the common part is compared. NaN if a logit is NaN.
    """
    total = largest = same = count = positions = 0.0
    for one, other in zip(before.logits(), after.logits(), strict=True):
        width = min(one.shape[1], other.shape[1])
        difference = numpy.abs(one[:, :width] - other[:, :width])
        total, count = total + difference.sum(dtype=numpy.float64), count + difference.size
        largest = numpy.maximum(largest, difference.max())
        likeliest = other[:, :width].argmax(1)[:, None]
        same += (numpy.take_along_axis(one, likeliest, 1)[:, 0] >= one[:, :width].max(1) - TIED).sum()
        positions += len(one)
    return float(total / count), float(largest), float(same / positions)


def answer_checks(before: Sequence[Answer], after: Sequence[Answer], same: Limit | None = None) -> list[Check]:
    """Whether answers still end; with a limit `same`, also the share of identical answers."""
    ended = [sum(answer.ended for answer in answers) / len(answers) for answers in (before, after)]
    kept = check(ANSWERS_END, ended[1] / ended[0] if ended[0] else 1.0, before=ended[0], after=ended[1])
    if same is None:
        return [kept]
    equal = sum(a.text == b.text for a, b in zip(before, after, strict=True)) / len(before)
    return [check(same, equal), kept]


def metric_checks(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> list[Check]:
    """For each metric, (share, right answers beyond guessing) before and after.

    With few right answers one more or less would exceed any limit, so the shares are only reported.
    """
    checks = []
    for name, (share, right) in before.items():
        share_after = after[name][0]
        if right >= ENOUGH_RIGHT:
            checks.append(check(METRIC_KEPT, share_after / share, name, before=share, after=share_after))
        else:
            checks.append(Check(name, None, before=share, after=share_after))
    return checks


def divergence_checks(
    names: Sequence[str], before: ModelOutputs, rounded: ModelOutputs, after: ModelOutputs, limit: Limit
) -> list[Check]:
    """Divergence of the next-token distributions from the 16-bit model's, in nats per token, for texts of each name.

    Compares the quantised model with a rounded one. The limit applies to the lower end of the interval of their ratio;
    with few texts there is no interval, and the divergences are only reported. Perplexities would mislead: an adapter
    can make a model overconfident, and rounding it badly then *lowers* its perplexity.
    """
    rounding_losses, after_losses = divergences(before, rounded), divergences(before, after)
    checks = []
    for name in dict.fromkeys(names):
        of_name = [number for number, text_name in enumerate(names) if text_name == name]
        rounding, quantized = ([losses[i] for i in of_name] for losses in (rounding_losses, after_losses))
        row = Check(f"divergence, {name}", None, rounding=_per_token(rounding), after=_per_token(quantized))
        if len(of_name) >= ENOUGH_TEXTS:
            low, _ = interval(quantized, rounding)
            row = check(limit, low, row.name, rounding=row.rounding, after=row.after)
        checks.append(row)
    return checks


def divergences(before: ModelOutputs, other: ModelOutputs) -> list[tuple[float, int]]:
    """For each text, the Kullback-Leibler divergence of the other model's next-token distributions from the first's.

    Summed over the positions, in nats, with the number of positions. NaN if a logit is NaN.
    """
    result = []
    for one, two in zip(before.logits(), other.logits(), strict=True):
        width = min(one.shape[1], two.shape[1])
        exact, near = (_log_softmax(logits[:, :width].astype(numpy.float64)) for logits in (one, two))
        result.append((float((numpy.exp(exact) * (exact - near)).sum()), len(exact)))
    return result


def perplexity_checks(
    before: Mapping[str, TextLosses], rounded: Mapping[str, TextLosses], after: Mapping[str, TextLosses]
) -> list[Check]:
    """The perplexities in 16 bit, rounded and quantised. Only reported; `divergence_checks` has the limit."""
    return [
        Check(
            f"perplexity, {name}",
            None,
            before=perplexity(losses),
            rounding=perplexity(rounded[name]),
            after=perplexity(after[name]),
        )
        for name, losses in before.items()
        if losses
    ]


def perplexity(losses: TextLosses) -> float:
    """Per token, over all texts together."""
    return float(numpy.exp(_per_token(losses)))


def interval(one: TextLosses, other: TextLosses, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the ratio of two models' divergences, for other texts of the same kind.

    Paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13): whole texts are resampled, each with the
    numbers of both models.
    """
    nats = numpy.array([[a, b] for (a, _), (b, _) in zip(one, other, strict=True)])
    resampled = numpy.random.default_rng(seed).integers(len(nats), size=(RESAMPLES, len(nats)))
    sums = nats[resampled].sum(1)
    low, high = numpy.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(low), float(high)


def _per_token(losses: TextLosses) -> float:
    return sum(nats for nats, _ in losses) / sum(tokens for _, tokens in losses)


def _log_softmax(logits: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    centred: NDArray[numpy.float64] = logits - logits.max(axis=1, keepdims=True)
    log_sums: NDArray[numpy.float64] = numpy.log(numpy.exp(centred).sum(axis=1, keepdims=True))
    return centred - log_sums


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
