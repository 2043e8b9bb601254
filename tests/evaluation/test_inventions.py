"""Which answers abstain: phrasings that models use, and claims that look like them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.evaluation.inventions import ABSTENTION, abstains, inventions

ABSTAINING = [
    "",
    "  \n",
    "...",
    "—",
    ABSTENTION,
    "The notes do not say.",
    "The notes don’t say how much it costs.",
    "Your notes don't mention a baker's name.",
    "The text doesn't explicitly state the price of a banneton.",
    "The provided text does not mention who invented the Dutch oven.",
    "The passage doesn't specify.",
    "The document never mentions a temperature for rye.",
    "The notes say nothing about pizza.",
    "The notes are silent on this.",
    "The given context does not provide information about the cost.",
    "The information provided does not include the number of ships.",
    "I'm sorry, but the notes you provided do not contain any information about it.",
    "I don't know.",
    "I do not know the answer to this question.",
    "I really don't know.",
    "Sorry, I don't know that.",
    "I'm sorry, but I can't find that in the notes.",
    "I cannot answer this question from the notes.",
    "I couldn't find anything about it.",
    "I'm not sure.",
    "I am not sure about that, since the notes say nothing of it.",
    "I'm unsure.",
    "I am not aware of any such rule.",
    "I have no idea.",
    "I have no information about that.",
    "I don't have enough information to answer.",
    "I don't have access to the prices.",
    "No idea.",
    "Not sure.",
    "Unknown.",
    "The name of the baker is unknown.",
    "It remains unclear.",
    "N/A",
    "Not mentioned.",
    "Not mentioned in the notes.",
    "Not specified",
    "Not stated in the text.",
    "It is not mentioned.",
    "It isn't mentioned anywhere in the notes.",
    "The price is not given in the notes.",
    "The height is not given.",
    "That isn't known.",
    "This is not explicitly stated in the passage.",
    "The answer is not provided in the text.",
    "It was never mentioned who baked it.",
    "It is not clear from the notes.",
    "There is no mention of a microwave in the notes.",
    "There is no information about that in the document.",
    "There's nothing about sugar in the notes.",
    "There is not enough information to answer.",
    "Not enough information.",
    "No information is given about the oven's brand.",
    "Nothing is said about that.",
    "It cannot be determined from the text.",
    "This can't be answered with the notes.",
    "It is impossible to say.",
    "It isn't possible to tell from the notes.",
    "Unfortunately, the notes don't cover freezing dough.",
    "The notes don't say. You could ask a baker.",
    "**The notes don't say.**",
    "THE NOTES DON'T SAY",
]
CLAIMING = [
    "In 1871.",
    "No.",
    "Yes.",
    "Nobody.",
    "Nothing.",
    "None.",
    "About an hour.",
    "The dough is not given any salt.",
    "The starter was not fed for a long time.",
    "It does not rise in the fridge.",
    "A dough without salt doesn't taste of much.",
    "You don't need a banneton.",
    "I use rye flour.",
    "The baker doesn't know the weight of the flour.",
    "An unknown sailor built it.",
    "It is a stale loaf that can't be cut.",
    "The notes say that the dough rests for an hour.",
    "Notes are written with a pen.",
    "The text describes a mix of flour and water.",
    "There is no salt in it.",
    "There is no need to knead it.",
    "It is clear and golden.",
    "I don't know, but about an hour.",
    "The notes don't say, but rye flour is best.",
    "The notes don't mention it; two hours is usual.",
    "It is two hours, although the crust isn't brown.",
    "The bread is not there to be eaten warm.",
    "It isn't possible to bake bread without an oven.",
    "The keeper could not see the fog.",
    "The light is not available at night for two hours.",
]


@pytest.mark.parametrize("answer", ABSTAINING)
def test_it_abstains(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize("answer", CLAIMING)
def test_it_claims_something(answer: str) -> None:
    assert not abstains(answer)


@given(st.lists(st.sampled_from(ABSTAINING)), st.lists(st.sampled_from(CLAIMING), min_size=1), st.randoms())
def test_inventions_are_the_share_of_claims_in_any_order(abstaining: list[str], claiming: list[str], rng) -> None:
    answers = abstaining + claiming
    rng.shuffle(answers)
    found = inventions(answers)
    assert found["inventions"] == pytest.approx(len(claiming) / len(answers))
    assert 0 <= found["low"] <= found["inventions"] <= found["high"] <= 1
    assert found["low"] < found["high"]


def test_no_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        inventions([])


@given(st.text())
def test_no_text_breaks_the_rule(text: str) -> None:
    assert abstains(text) in (True, False)
    assert abstains(f"{text[:0]}I don't know.")
