"""The share of the open book's F1: a ratio with a paired interval, or the reason why there is none."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.evaluation.open_book_share import LEAST_OPEN_BOOK, open_book_share

RIGHT = [f"answer {word}" for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")]
WRONG = ["something else"] * 10


def mixed(right: int) -> list[str]:
    return RIGHT[:right] + WRONG[right:]


def test_the_share_is_the_ratio_of_both_f1_and_its_interval_contains_it() -> None:
    found = open_book_share(mixed(4), mixed(8), RIGHT)
    assert (found.f1, found.open_book_f1, found.questions) == (0.4, 0.8, 10)
    assert found.share == pytest.approx(0.5)
    assert found.low < 0.5 < found.high and found.low > 0 and found.missing is None
    assert open_book_share(mixed(4), mixed(8), RIGHT) == found, "the same for the same seed"
    assert open_book_share(mixed(8), mixed(4), RIGHT).share == pytest.approx(2), "it may exceed 1"


def test_the_interval_is_paired_and_narrows_with_more_questions() -> None:
    same = open_book_share(mixed(5), mixed(5), RIGHT)
    assert (same.low, same.high) == (1, 1), "equal answers have an equal F1 in every resample"
    other = open_book_share(mixed(5), mixed(5)[::-1], RIGHT[:5] + RIGHT[:5][::-1])
    assert other.low < 1 < other.high
    few, many = (open_book_share(mixed(4) * n, mixed(8) * n, RIGHT * n) for n in (1, 10))
    assert many.share == pytest.approx(few.share)
    assert many.high - many.low < (few.high - few.low) / 2


def test_it_covers_the_true_ratio_in_about_95_percent_of_samples() -> None:
    rng, covered = random.Random(0), 0
    for _ in range(100):
        after = [right if rng.random() < 0.3 else "else" for right in RIGHT * 6]
        opened = [right if rng.random() < 0.6 else "else" for right in RIGHT * 6]
        found = open_book_share(after, opened, RIGHT * 6)
        covered += found.low <= 0.5 <= found.high
    assert 88 <= covered <= 100


def test_a_poor_open_book_gives_no_ratio_or_a_warning() -> None:
    for opened, why in ((WRONG, "is near 0"), (mixed(1), "may be near 0")):
        found = open_book_share(mixed(5), opened, RIGHT)
        assert (found.share, found.low, found.high) == (None, None, None)
        assert why in str(found.missing) and "no ratio" in found.note()
    found = open_book_share(mixed(10) * 9, (mixed(1) + mixed(3)) * 4 + mixed(3), RIGHT * 9)
    assert found.share > 1 and "poor" in found.note()
    assert "poor" not in open_book_share(mixed(5), mixed(5), RIGHT).note()


def test_few_questions_have_no_interval_and_none_are_an_error() -> None:
    found = open_book_share(RIGHT[:3], RIGHT[:3], RIGHT[:3])
    assert (found.share, found.low, found.high) == (1, None, None)
    with pytest.raises(ValueError, match="no answers"):
        open_book_share([], [], [])
    with pytest.raises(ValueError, match="zip"):
        open_book_share(["a"], ["a", "b"], ["a", "b"])


TEXTS = st.lists(
    st.tuples(*[st.sampled_from(["a week", "a day", "", "ice", "a long week"])] * 3), min_size=1, max_size=20
)


@given(TEXTS)
def test_bounds_are_finite_and_in_order(rows: list[tuple[str, str, str]]) -> None:
    found = open_book_share(*map(list, zip(*rows, strict=True)))
    if found.low is not None:
        assert 0 <= found.low <= found.high <= 1 / LEAST_OPEN_BOOK
    assert (found.share is None) == (found.missing is not None)
