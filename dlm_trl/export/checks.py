"""The numbers of a step against its limits: what was found before and after it, and whether that is good enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy

from dlm_trl.evaluation.report import markdown_table
from dlm_trl.export.limits import LIMITS
from dlm_trl.export.model_outputs import Answer, ModelOutputs

RESAMPLES = 10_000  # of the bootstrap
ENOUGH = 20  # right answers: with fewer, one is more than the 5 % that may be lost
ENOUGH_PIECES = 6  # texts: of fewer, all may be worse by chance in more than 5 % of all cases (a sign test)
LogProbs = Sequence[tuple[float, int]]  # of each piece: nats, summed over its tokens, and how many tokens


@dataclass(frozen=True)
class Check:
    """One row of the table. `value` is what the limit is about; limit "" where a number is only told."""

    name: str
    value: float | None
    limit: str = ""
    passed: bool = True
    before: float | None = None
    after: float | None = None
    rounding: float | None = None
    failing: str = ""


def check(limit: str, value: float, name: str | None = None, **shown: float) -> Check:
    """A value against the limit of this name; `name` is how the row is called, the limit's own by default."""
    said, passed = LIMITS[limit], LIMITS[limit].holds(value)
    return Check(name or limit, value, str(said), passed, failing="" if passed else said.failing, **shown)


def table(checks: Sequence[Check]) -> str:
    """As Markdown, lined up so that it reads well in a terminal too."""
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


def logit_checks(before: ModelOutputs, after: ModelOutputs, stored: str) -> list[Check]:
    """Differences over all positions and the whole vocabulary; `stored` is the merged weights' dtype.

    Rounding to 16 bits moves the logits in proportion to their size, which differs from model to model; there they are
    shares of the logits' standard deviation.
    """
    mean, largest, same = differences(before, after)
    if stored == "float32":
        found = [check("logit difference, mean, float32", mean), check("logit difference, largest, float32", largest)]
    else:
        deviation, names = logit_deviation(before), ("mean", "largest")
        found = [
            check(f"logit difference, {name} to standard deviation, 16 bit", value / deviation)
            for name, value in zip(names, (mean, largest), strict=True)
        ]
    return [*found, check("same most likely token", same)]


def logit_deviation(outputs: ModelOutputs) -> float:
    """The standard deviation of the logits, over all positions and the whole vocabulary."""
    logits = outputs.logits()
    count = sum(text.size for text in logits)
    mean = sum(text.sum(dtype=numpy.float64) for text in logits) / count
    return float(numpy.sqrt(sum(numpy.square(text - mean, dtype=numpy.float64).sum() for text in logits) / count))


def differences(before: ModelOutputs, after: ModelOutputs) -> tuple[float, float, float]:
    """Mean and largest difference of the logits, and the share of positions with the same most likely token.

    A vocabulary that was padded is compared where both have one. NaN where a logit is none.
    """
    total = largest = same = count = positions = 0.0
    for one, other in zip(before.logits(), after.logits(), strict=True):
        width = min(one.shape[1], other.shape[1])
        apart = numpy.abs(one[:, :width] - other[:, :width])
        total, count = total + apart.sum(dtype=numpy.float64), count + apart.size
        largest = numpy.maximum(largest, apart.max())
        same += (one[:, :width].argmax(1) == other[:, :width].argmax(1)).sum()
        positions += len(one)
    return float(total / count), float(largest), float(same / positions)


def answer_checks(before: Sequence[Answer], after: Sequence[Answer], greedy: bool) -> list[Check]:
    """Whether answers still end, and, where greedy, whether they are the same."""
    ended = [sum(answer.ended for answer in answers) / len(answers) for answers in (before, after)]
    kept = check("answers that end, kept", ended[1] / ended[0] if ended[0] else 1.0, before=ended[0], after=ended[1])
    if not greedy:
        return [kept]
    same = sum(a.text == b.text for a, b in zip(before, after, strict=True)) / len(before)
    return [check("same greedy answers", same), kept]


def metric_checks(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> list[Check]:
    """Each metric: a share, and how many answers that is beyond guessing. Where those are few, one more or less is
    beyond any limit, and the shares are only shown.
    """
    checks = []
    for name, (share, right) in before.items():
        shown = {"before": share, "after": after[name][0]}
        checks.append(
            check("metric kept", after[name][0] / share, name, **shown)
            if right >= ENOUGH
            else Check(name, None, **shown)
        )
    return checks


def divergence_checks(
    names: Sequence[str], before: ModelOutputs, rounded: ModelOutputs, after: ModelOutputs
) -> list[Check]:
    """For each name of the texts: how far the next-token distributions of the rounded and of the quantised model are
    from the 16-bit model's, in nats per token; what must not be above 1 is the lower end of their ratio's interval.

    Not the perplexities: a model that an adapter made surer than it should be has a *lower* one after it was rounded
    badly. With few texts there is no interval, and the divergences are reported, not checked.
    """
    far = {who: divergences(before, found) for who, found in (("rounding", rounded), ("after", after))}
    checks = []
    for name in dict.fromkeys(names):
        pieces = {
            who: [piece for at, piece in zip(names, all_, strict=True) if at == name] for who, all_ in far.items()
        }
        shown = {who: sum(nats for nats, _ in of) / sum(tokens for _, tokens in of) for who, of in pieces.items()}
        said = f"divergence, {name}"
        if len(pieces["after"]) < ENOUGH_PIECES:
            checks.append(Check(said, None, **shown))
        else:
            low, _ = interval(pieces["after"], pieces["rounding"])
            checks.append(check("divergence, AWQ to rounding", low, said, **shown))
    return checks


def divergences(before: ModelOutputs, other: ModelOutputs) -> list[tuple[float, int]]:
    """Of each text the Kullback-Leibler divergence of the other model's next-token distributions from the first's,
    summed over its positions, in nats; and how many positions that is. NaN if a logit is NaN.
    """
    found = []
    for one, two in zip(before.logits(), other.logits(), strict=True):
        width = min(one.shape[1], two.shape[1])
        exact, near = (_log_softmax(logits[:, :width].astype(numpy.float64)) for logits in (one, two))
        found.append((float((numpy.exp(exact) * (exact - near)).sum()), len(exact)))
    return found


def _log_softmax(logits: numpy.ndarray) -> numpy.ndarray:
    centred = logits - logits.max(axis=1, keepdims=True)
    return centred - numpy.log(numpy.exp(centred).sum(axis=1, keepdims=True))


def perplexity_checks(
    before: Mapping[str, LogProbs], rounded: Mapping[str, LogProbs], after: Mapping[str, LogProbs]
) -> list[Check]:
    """For each text the perplexity in 16 bit, rounded, and quantised: reported, for `divergence_checks` judges."""
    return [
        Check(f"perplexity, {name}", None, **dict(zip(("before", "rounding", "after"), values, strict=True)))
        for name, pieces in before.items()
        if pieces and (values := [perplexity(of) for of in (pieces, rounded[name], after[name])])
    ]


def perplexity(pieces: LogProbs) -> float:
    """Per token, over all pieces together."""
    nats, tokens = numpy.array(pieces).sum(0)
    return float(numpy.exp(nats / tokens))


def interval(one: LogProbs, other: LogProbs, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the ratio of two models' divergences, over other pieces of the same kind.

    Paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13): whole pieces are drawn again, with both models'
    numbers of a piece together.
    """
    nats = numpy.array([[a, b] for (a, _), (b, _) in zip(one, other, strict=True)])
    drawn = numpy.random.default_rng(seed).integers(len(nats), size=(RESAMPLES, len(nats)))
    sums = nats[drawn].sum(1)
    low, high = numpy.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(low), float(high)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
