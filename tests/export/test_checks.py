"""The checks of a step: each kind of damage fails its check, and intact models pass."""

from dataclasses import asdict
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.export.awq_step import DIVERGENCE
from dlm_trl.export.checks import (
    Check,
    answer_checks,
    check,
    divergence_checks,
    divergences,
    interval,
    logit_deviation,
    logit_differences,
    metric_checks,
    perplexity_checks,
    table,
)
from dlm_trl.export.limits import METRIC_KEPT, Limit
from dlm_trl.export.merge_step import SAME_ANSWERS, logit_checks
from dlm_trl.export.model_outputs import Answer, ModelOutputs
from dlm_trl.export.steps import LIMITS

RANDOM = numpy.random.default_rng(5)


def observation(folder: Path, logits: list[numpy.ndarray]) -> ModelOutputs:
    folder.mkdir()
    for number, values in enumerate(logits):
        numpy.save(folder / f"logits-{number:05}.npy", values.astype(numpy.float32))
    return ModelOutputs(folder, [], {}, {})


def pieces(nats_per_token: numpy.ndarray, tokens: numpy.ndarray) -> list[tuple[float, int]]:
    return [(float(nats * count), int(count)) for nats, count in zip(nats_per_token, tokens, strict=True)]


def test_logit_differences_cover_all_texts_and_see_one_changed_number(tmp_path: Path) -> None:
    logits = [RANDOM.normal(size=(length, 50)) for length in (3, 5)]
    other = [values.copy() for values in logits]
    other[1][4, 7] += 2.0
    one = observation(tmp_path / "one", logits)
    mean, largest, same = logit_differences(one, observation(tmp_path / "other", other))
    assert (mean, largest) == (pytest.approx(2 / 400, rel=1e-5), pytest.approx(2, rel=1e-5))
    assert same == (8 - (other[1][4].argmax() != logits[1][4].argmax())) / 8
    assert logit_differences(one, observation(tmp_path / "same", logits)) == (0, 0, 1)
    padded = [numpy.pad(values, ((0, 0), (0, 14)), constant_values=99) for values in logits]
    assert logit_differences(one, observation(tmp_path / "padded", padded)) == (0, 0, 1)


def test_tied_tokens_count_as_the_same(tmp_path: Path) -> None:
    logits = RANDOM.normal(size=(40, 50))
    logits[:, 7] = logits[:, 3] = 9
    one, other = (
        observation(tmp_path / name, [logits + 3e-6 * RANDOM.normal(size=logits.shape)]) for name in ("one", "other")
    )
    likeliest = [outputs.logits()[0].argmax(1) for outputs in (one, other)]
    assert (likeliest[0] == likeliest[1]).mean() < 0.8
    assert logit_differences(one, other)[2] == 1
    logits[:10, 7] += 0.1  # no longer tied
    logits[:10, 3] += 0.2
    assert logit_differences(observation(tmp_path / "apart", [logits]), other)[2] >= 0.75
    logits[:10, 9] = 12
    assert logit_differences(observation(tmp_path / "third", [logits]), other)[2] == 0.75


def test_a_merge_with_a_nan_fails(tmp_path: Path) -> None:
    logits = [RANDOM.normal(size=(3, 50))]
    broken = [logits[0].copy()]
    broken[0][1, 2] = numpy.nan
    found = logit_checks(observation(tmp_path / "one", logits), observation(tmp_path / "other", broken), "bfloat16")
    assert [check.passed for check in found[:2]] == [False, False]


def test_the_limits_of_a_merge_depend_on_the_stored_dtype(tmp_path: Path) -> None:
    logits = [RANDOM.normal(size=(4, 50))]
    one, other = observation(tmp_path / "one", logits), observation(tmp_path / "other", [logits[0] + 0.005])
    assert not all(found.passed for found in logit_checks(one, other, "float32"))
    assert all(found.passed for found in logit_checks(one, other, "bfloat16"))


def test_limits_for_16_bits_scale_with_the_logits(tmp_path: Path) -> None:
    logits = RANDOM.normal(size=(4, 50))
    for size, passed in ((1, False), (10, True)):
        one, other = (observation(tmp_path / f"{size}{k}", [logits * size + 0.05 * k]) for k in (0, 1))
        assert logit_deviation(one) == pytest.approx(size * logits.std(), rel=1e-5)
        assert logit_checks(one, other, "bfloat16")[0].passed is passed


def test_answers_must_stay_the_same_and_end() -> None:
    before = [Answer(f"{n}", ended=n < 8) for n in range(10)]
    assert all(found.passed for found in answer_checks(before, before, SAME_ANSWERS))
    endless = [Answer(answer.text, ended=False) for answer in before]
    assert [found.passed for found in answer_checks(before, endless, SAME_ANSWERS)] == [True, False]
    other = [Answer("other" if n < 2 else answer.text, answer.ended) for n, answer in enumerate(before)]
    assert [found.passed for found in answer_checks(before, other, SAME_ANSWERS)] == [False, True]
    assert [found.passed for found in answer_checks(before, other)] == [True]
    assert all(found.passed for found in answer_checks(endless, before))


def test_metrics_with_enough_right_answers_must_be_kept() -> None:
    found = metric_checks(
        {"a": (0.8, 40.0), "b": (0.8, 40.0), "few": (0.8, 8.0), "none": (0.0, 0.0)},
        {"a": (0.77, 39.0), "b": (0.75, 38.0), "few": (0.1, 1.0), "none": (0.0, 0.0)},
    )
    assert [(c.name, c.passed, bool(c.limit)) for c in found] == [
        ("a", True, True),
        ("b", False, True),
        ("few", True, False),
        ("none", True, False),
    ]
    assert (found[2].before, found[2].after) == (0.8, 0.1)


@given(st.integers(0, 2**32), st.integers(8, 60))
def test_the_interval_contains_the_ratio_and_is_seeded(seed: int, count: int) -> None:
    random = numpy.random.default_rng(seed)
    tokens = random.integers(5, 100, count)
    far = random.gamma(4, 0.1, count)
    one, other = pieces(far * random.uniform(0.5, 1.5, count), tokens), pieces(far, tokens)
    low, high = interval(one, other)
    assert low <= sum(nats for nats, _ in one) / sum(nats for nats, _ in other) <= high
    assert interval(one, other) == (low, high)
    assert interval(one, one) == (1, 1)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(200):
        random = numpy.random.default_rng(trial)
        tokens, far = numpy.full(80, 50), random.gamma(4, 0.1, 80)
        low, high = interval(pieces(far * random.uniform(0.4, 1.0, 80), tokens), pieces(far, tokens))
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 198


def test_a_divergence_sums_the_distances_of_the_distributions(tmp_path: Path) -> None:
    half, third = numpy.log([[0.5, 0.5], [0.5, 0.5]]), numpy.log([[0.25, 0.75], [0.5, 0.5]])
    one, other = observation(tmp_path / "one", [half + 7]), observation(tmp_path / "other", [third - 3])
    ((nats, positions),) = divergences(one, other)
    assert (nats, positions) == (pytest.approx(0.5 * numpy.log(2) + 0.5 * numpy.log(2 / 3), abs=1e-6), 2)
    assert divergences(one, one) == [(0, 2)]


def test_only_a_quantiser_that_is_clearly_worse_than_rounding_fails(tmp_path: Path) -> None:
    """Even if rounding lowers the perplexity, as for an overconfident model."""
    exact = [3 * RANDOM.normal(size=(20, 30)) for _ in range(24)]
    noise = [RANDOM.normal(size=logits.shape) for logits in exact]
    before = observation(tmp_path / "before", exact)
    rounded = observation(tmp_path / "rounded", [logits + 0.5 * of for logits, of in zip(exact, noise, strict=True)])
    names = ["notes"] * 20 + ["few"] * 4
    found = {}
    for size in (0.3, 0.5, 0.7):
        logits = [logits - size * of for logits, of in zip(exact, noise, strict=True)]
        after = observation(tmp_path / f"after-{size}", logits)
        found[size], few = divergence_checks(names, before, rounded, after, DIVERGENCE)
        assert few.passed and few.limit == "" and few.value is None and few.after > 0
    assert [check.passed for check in found.values()] == [True, True, False]
    assert found[0.3].after < found[0.3].rounding < found[0.7].after
    flatter = observation(tmp_path / "flatter", [0.6 * logits for logits in exact])
    (check, _) = divergence_checks(
        names, before, flatter, observation(tmp_path / "near", [0.9 * x for x in exact]), DIVERGENCE
    )
    assert check.passed and check.value < 0.2


def test_perplexities_are_reported_not_checked() -> None:
    one, other = pieces(numpy.full(8, 1.0), numpy.full(8, 40)), pieces(numpy.full(8, 2.0), numpy.full(8, 40))
    (found,) = perplexity_checks({"notes": one, "none": []}, {"notes": one, "none": []}, {"notes": other, "none": []})
    assert (found.name, found.passed, found.limit) == ("perplexity, notes", True, "")
    assert (found.before, found.after) == (pytest.approx(numpy.e), pytest.approx(numpy.e**2))


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_every_limit_has_one_side_and_rejects_nan(limit: Limit) -> None:
    assert (limit.least is None) != (limit.most is None)
    edge, beyond = (limit.least, limit.least - 0.01) if limit.most is None else (limit.most, limit.most + 0.01)
    assert limit.holds(edge)
    assert not limit.holds(beyond)
    assert not limit.holds(float("nan"))
    assert limit.failing


def test_the_table_shows_failures_and_only_used_columns() -> None:
    checks = [check(METRIC_KEPT, 0.5, "recall", before=0.8, after=0.4), Check("reported", 0.125)]
    head, _, failed, reported = table(checks).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["check", "before", "after", "value", "limit", ""]
    assert "FAILED: the model lost what the run taught" in failed
    assert "0.125" in reported
    assert [Check(**asdict(found)) for found in checks] == checks
