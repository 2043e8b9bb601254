"""Sentences of prose: nothing but white space and markup gets lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes.sentences import paragraphs, sentences


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ("One is here. Two\nis there.\n\nThree.", [["One is here.", "Two is there."], ["Three."]]),
        ("# A heading\nOne.\n\n| a | table |\n\n```py\ncode.\n```\nTwo.", [["One."], ["Two."]]),
        ("A list:\n- Flour.\n* Salt. And time\n2) An oven", [["A list:", "Flour.", "Salt.", "And time", "An oven"]]),
        ("> A quoted\n> sentence.", [["A quoted sentence."]]),
        ("It takes approx. two hours, e.g. at night.", [["It takes approx. two hours, e.g. at night."]]),
        ('He said: "No." "Yes!" was the answer.', [['He said: "No."', '"Yes!" was the answer.']]),
        ("酵母产生气体。气体使面团膨胀。", [["酵母产生气体。", "气体使面团膨胀。"]]),
        ("Hefe macht Gas. Über Nacht geht der Teig.", [["Hefe macht Gas.", "Über Nacht geht der Teig."]]),
        ("", []),
        ("\n \n# Only a heading\n", []),
    ],
)  # fmt: skip
def test_paragraphs(prose: str, expected: list[list[str]]) -> None:
    assert paragraphs(prose) == expected


@given(st.lists(st.text("ab .!?。\n", max_size=30)).map(" ".join))
def test_no_word_is_lost_or_added(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    assert all(sentence == " ".join(sentence.split()) and sentence for sentence in sentences(text))


def test_blank_lines_take_linear_time() -> None:
    assert paragraphs("One." + "\n" * 300_000 + "Two.") == [["One."], ["Two."]]
