"""Limits are never exceeded, and what replies don't use is available to later requests."""

from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.synth.budget import Budget, cost_of, max_usage
from dlm_trl.teachers.protocol import Reply, Request, Usage

USAGES = st.builds(Usage, st.integers(0, 50), st.integers(1, 50))


class Counting:
    """A teacher that can only count tokens, or not even that."""

    reference = revision = "t"
    context = None

    def __init__(self, tokens: int | None) -> None:
        self._tokens = tokens

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        yield from ()

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        return self._tokens


@given(
    st.lists(USAGES),
    st.none() | st.integers(1, 500),
    st.none() | st.floats(0, 1e-3),
    st.tuples(st.floats(0, 9), st.floats(0, 9)),
    st.data(),
)
def test_limits_are_never_exceeded_and_fully_used(
    bounds: list[Usage], tokens: int | None, cost: float | None, price: tuple[float, float], data: st.DataObject
) -> None:
    budget = Budget(tokens, cost, price)

    def is_within(usage: Usage) -> bool:
        total, paid = usage.prompt_tokens + usage.completion_tokens, cost_of(usage, price)
        return (tokens is None or total <= tokens) and (cost is None or paid is None or paid <= cost)

    while bounds:
        count = budget.affordable(bounds)
        assert count == len(bounds) or not is_within(sum(bounds[: count + 1], budget.spent))
        if not count:
            return
        wave, bounds = bounds[:count], bounds[count:]
        assert is_within(sum(wave, budget.spent))
        for bound in wave:
            used = st.builds(Usage, st.integers(0, bound.prompt_tokens), st.integers(0, bound.completion_tokens))
            budget.spend(data.draw(used))
        assert is_within(budget.spent)


def test_the_max_usage_of_a_request() -> None:
    request = Request("k", [{"role": "user", "content": "Äpfel"}], max_new_tokens=9)
    assert max_usage(request, Counting(4)) == Usage(4, 9)
    unknown = max_usage(request, Counting(None))
    assert unknown.completion_tokens == 9
    assert unknown.prompt_tokens > len("Äpfel".encode())  # a chat template adds some


def test_prices_are_per_million_tokens() -> None:
    assert cost_of(Usage(1_000_000, 500_000), (2.0, 6.0)) == pytest.approx(5.0)
    assert cost_of(Usage(1, 1), None) is None
