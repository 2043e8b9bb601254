"""Windows lose nothing, fit, and end where a reader would pause; split budgets add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.synth.windows import split_budget, windows

TEXTS = st.lists(
    st.sampled_from(["Dew forms.", "Tides rise and fall", "\n\n", "\n", " ", "é.", '"So!" ', "verylongword" * 3])
).map("".join)


@given(TEXTS, st.integers(1, 60))
def test_windows_keep_every_word_in_order_and_fit(prose: str, size: int) -> None:
    found = windows(prose, lambda text: len(text) <= size)
    assert "".join("".join(found).split()) == "".join(prose.split())
    if all(len(word) <= size for word in prose.split()):
        assert " ".join(found).split() == prose.split()
    assert all(len(window) <= size for window in found)


def test_a_text_that_fits_is_only_stripped() -> None:
    assert windows("\n a\n\nb \n", lambda text: True) == ["a\n\nb"]


def test_windows_end_at_paragraphs_then_at_sentences() -> None:
    prose = "One two. Three four.\n\nFive six. Seven eight nine."
    assert windows(prose, lambda text: len(text) <= 27) == ["One two. Three four.", "Five six. Seven eight nine."]
    assert windows(prose, lambda text: len(text) <= 18) == ["One two.", "Three four.", "Five six.", "Seven eight nine."]


def test_prose_without_spaces_is_split_after_sentences_or_anywhere() -> None:
    sentences = ["茶马古道连接西南与西藏。", "他说：“翻过雪山！”", "普洱茶运往拉萨。"]
    assert windows("".join(sentences), lambda text: len(text) <= 12) == sentences
    assert windows("".join(sentences), lambda text: len(text) <= 23) == ["".join(sentences[:2]), sentences[2]]
    assert windows("See 茶马古道连接西南与西藏 there", lambda text: len(text) <= 5) == [
        "See",
        "茶马古道连",
        "接西南与西",
        "藏",
        "there",
    ]


def test_a_megabyte_of_one_word_needs_few_calls() -> None:
    asked: list[int] = []

    def fits(text: str) -> bool:
        asked.append(len(text))
        return len(text) <= 1000

    assert windows("x" * 1_000_000, fits) == ["x" * 1000] * 1000
    assert len(asked) < 30_000 and sorted(asked)[-10] <= 2000


@given(st.integers(0, 50), st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_shares_add_up_and_are_off_by_less_than_one(budget: int, sizes: list[int]) -> None:
    given_shares = split_budget(budget, sizes)
    assert sum(given_shares) == budget
    assert all(abs(share - budget * size / sum(sizes)) < 1 for share, size in zip(given_shares, sizes, strict=True))


@pytest.mark.parametrize(("budget", "sizes", "expected"), [(3, [10, 10], [2, 1]), (1, [5, 20], [0, 1]), (2, [7], [2])])
def test_split_budget(budget: int, sizes: list[int], expected: list[int]) -> None:
    assert split_budget(budget, sizes) == expected
