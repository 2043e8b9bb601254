"""Sentences of prose: nothing but white space and markup gets lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.notes.sentences import paragraphs, sentence_lines, sentences


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


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ("# A heading\n\nOne is here. Two\nis there.\n\nThree.\n", [2, 2, 5]),
        ("```py\ncode.\n\n# code\n```\nOne.\n> Two. Three\n> goes\n> on. Four.", [5, 6, 6, 8]),
        ("A list:\n\n- Flour\n\n  1) Salt. And\n time", [0, 2, 4, 4]),
        ("酵母产生气体。气体\n使面团膨胀。酸使面包有酸味。", [0, 0, 1]),
        ("\n", []),
    ],
)
def test_a_sentence_has_the_line_that_it_starts_in(prose: str, expected: list[int]) -> None:
    assert sentence_lines(prose) == expected


_PARTS = (
    "one",
    "Two.",
    "three?",
    "四。",
    "\n",
    "\n\n",
    " ",
    "# ",
    "> ",
    "- ",
    "1. ",
    "```\n",
    "| ",
    "\t",
    "\x0b",
    "\u2028",
)


@given(st.lists(st.sampled_from(_PARTS), max_size=40).map("".join))
def test_every_sentence_starts_in_its_line(prose: str) -> None:
    found = [sentence for paragraph in paragraphs(prose) for sentence in paragraph]
    lines = sentence_lines(prose)
    assert len(lines) == len(found) and lines == sorted(lines)
    # Up to the first gap, since a line may end anywhere.
    assert all(found[i].split()[0] in prose.split("\n")[line] for i, line in enumerate(lines))
