"""Questions about single sentences: what is asked about, how the question may begin, and which ones are rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_trl.asking.facts import Fact, facts
from dlm_trl.asking.language import foreign_language, is_english
from dlm_trl.asking.openings import MAX_OPENINGS, openings, reverse_question
from dlm_trl.asking.questions import best, certainty, finished, needs_text, problem

BREAD = (
    "A starter is a mix of flour and water. It lasts for years. Salt slows the yeast down, so the dough rises later. "
    "Bake the loaf for 20 minutes with the lid."
)


def fact(sentence: str, before: str = "") -> Fact:
    return facts(f"{before} {sentence}")[-1]


def test_a_fact_has_the_sentences_that_it_refers_to() -> None:
    found = facts(f"{BREAD}\n\nWhy so? Too short.")
    assert [item.sentence for item in found] == [
        "A starter is a mix of flour and water.",
        "It lasts for years.",
        "Salt slows the yeast down, so the dough rises later.",
        "Bake the loaf for 20 minutes with the lid.",
    ]
    assert found[1].context == "A starter is a mix of flour and water. It lasts for years."
    assert found[2].context == found[2].sentence and found[0].nearby == tuple(item.sentence for item in found)


def test_only_the_sentences_nearby_are_compared() -> None:
    prose = " ".join(f"Sentence number {i} says something." for i in range(30))
    assert [len(item.nearby) for item in facts(prose)] == [5, 6, 7, 8, *[9] * 22, 8, 7, 6, 5]
    assert all(item.sentence in item.nearby for item in facts(prose))


@pytest.mark.parametrize(
    ("sentence", "first"),
    [
        ("A ridgepole is the beam at the top of a tent.", "What is a ridgepole"),
        ("**Compost** is a mix of leaves.", "What is compost"),
        ("Neap tides are the weakest tides of the month.", "What are neap tides"),
        ("The part that is taken away is called the discard.", "What is the part that is taken away called"),
        ("A dent that comes back slowly means that the loaf is ready.", "What does a dent that comes back slowly mean"),
        ("If the alarm sounds, turn off the engine.", "What should you do if the alarm sounds"),
        ("When flour meets water, gluten forms.", "What happens when flour meets water"),
        ("A cleat hitch holds a line on a cleat.", "What does a cleat hitch hold"),
        ("The loaf lies in a banneton.", "What does the loaf lie in"),
        ("The alert fires when more than 4000 jobs wait.", "When does the alert fire"),
        ("A clove hitch slips when the load changes.", "When does a clove hitch slip"),
        ("Logs of the service are deleted after a while.", "What happens to logs of the service"),
        ("The lighthouse was built in 1871 by Ida.", "When was the lighthouse built"),
        ("The fog signal was switched off in 1993.", "When was the fog signal switched off"),
        ("The tower is made of grey granite.", "What is the tower made of"),
        ("Electric light came to the island in 1948.", "When did electric light"),
        ("A keeper's watch lasted six hours.", "How long did a keeper's watch last"),
        ("Replace the chain when the gauge reads 0.75.", "When should you replace"),
        ("A baked loaf sounds hollow.", "What does"),
        ("A wet dough is hard to hold.", "What is a wet dough like"),
        ("Old fixers are weak.", "What are old fixers like"),
        ("The limit is two percent of the total.", "What is the limit"),
        ("Tickets are sold at the harbour office.", "Where are tickets sold"),
        ("Salaries are paid on the 25th of each month.", "When are salaries paid"),
        ("The yearly review takes place in March.", "When does the yearly review take place"),
        ("Honey is ripe when two thirds of the cells are capped.", "When is honey ripe"),
        ("Brake pads are worn when little is left.", "When are brake pads worn"),
        ("The tower is about 34 metres high.", "How high is the tower"),
        ("A chain lasts between 3000 and 5000 kilometres.", "How many kilometres does a chain last"),
        ("If the lever comes close, tighten the cable.", "What should you do if the lever comes close"),
        ("The keepers kept goats for milk.", "What did the keepers"),
        ("Tubeless tyres hold a liquid.", "What do tubeless tyres"),
        ("The light can be seen from afar.", "What does"),
        ("The saddle is at the right height.", "What does"),
        ("It lasts about 20 minutes in the harbour.", "How long"),
        ("A restart takes about 90 seconds.", "How long does a restart take"),
        ("The filter should be replaced once a year.", "How often"),
        ("Store the spare part in the red box.", "Where should you store"),
        ("Hold the blade gently.", "How should you hold"),
        ("Jo carries a boat that pushes the waves.", "What does Jo carry"),
        ("NASA watches the sky.", "What does NASA watch"),
        ("Spare bulbs cost a lot and are kept in the cupboard.", "What does"),
        ("The option subtracts 20 from every level.", "What does"),
        ("If you are ill, write to your manager.", "What should you do if you are ill"),
    ],
)  # fmt: skip
def test_the_first_opening(sentence: str, first: str) -> None:
    assert openings(sentence, frozenset({"Jo"}))[0] == first


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        (BREAD, True),
        ("Der Teig geht in der Nacht. An der Luft wird er trocken, und im Ofen geht er auf.", False),
        ("La pâte lève on ne sait pourquoi, et elle a besoin de sel.", False),
        ("La masa se pone a fermentar en la nevera.", False),
        ("酵母产生气体。", False),
        ("", False),
    ],
)
def test_the_rules_are_for_english(prose: str, expected: bool) -> None:
    assert is_english(prose) is expected
    assert foreign_language(BREAD) is None


@given(st.text())
def test_any_text_has_a_language_or_none(text: str) -> None:
    assert foreign_language(text) is None or foreign_language(text) != "English"


@given(st.text("Aa .,;:?!'is theof\n-", min_size=1) | st.text(min_size=1))
def test_every_text_has_openings(text: str) -> None:
    begun = openings(text)
    assert 1 <= len(begun) <= MAX_OPENINGS and len(set(begun)) == len(begun)


@pytest.mark.parametrize(
    ("question", "sentence", "wrong"),
    [
        ("What is a starter?", "A starter is a mix of flour and water.", None),
        ("How long does the tide take to turn?", "The tide takes 20 minutes to turn.", None),
        ("Why does the dough rise later?", "Salt slows the yeast down, so the dough rises later.", None),
        ("Why does salt slow the yeast down?", "Salt slows the yeast down, so the dough rises.", "another reason"),
        ("Why does the dough rise?", "The dough rises in the night.", "a reason"),
        ("How long is the dough?", "The dough rises in the bowl.", "a time"),
        ("What does a soft tyre roll?", "A soft tyre rolls slowly on the road.", "an object"),
        ("What does the smoker calm bees?", "The smoker calms the bees with its smoke.", "the answer"),
        ("What is the buddy's name?", "The buddy is a colleague.", "a name"),
        ("What does it do?", "The dough rises in the bowl.", "without the text"),
        ("What is a way to the same end?", "A way to the same end is the fold.", "without the text"),
        ("What can a baker do?", "A baker can leave this step out.", "without the text"),
        ("What is the text about?", "The dough rises in the bowl.", "without the text"),
        ("What does a can of beans make?", "Discard makes good pancakes.", "not in the text: beans"),
        ("Where should you drop a spoon into a glass?", "Drop a spoon into a glass.", "the answer"),
        ("What does steam keep the skin soft?", "Steam keeps the skin soft, so the loaf can grow.", "the answer"),
        ("How many grams are 10 grams of salt?", "Take 10 grams of salt.", "the answer"),
        ("What does the harbour have?", "The time is about 20 minutes in the harbour.", "another thing"),
        ("What should you do?", "Take 10 grams of salt.", "about nothing"),
        ("What does a bun make?", "A bun is a small loaf.", "not in the sentence: make"),
        ("What is honey?", "Honey is ripe in July.", "a definition"),
        ("What is the boom?", "The boom is the pole below the sail.", None),
        ("What is a lame called?", "The blade is called a lame.", "another thing"),
        ("What does a lame do?", "A lame is a thin blade.", "an action"),
        ("What does salt do to bread?", "Salt gives bread its taste.", None),
        ("What does the alert fire?", "The alert fires at 30 seconds.", "an object"),
        ("What should you keep bread in a bag?", "Keep bread in a bag.", "the answer"),
        ("What should you drop into a glass?", "Drop a spoon into a glass.", None),
        ("Starter?", "A starter is a mix of flour and water.", None),
        ("A starter", "A starter is a mix of flour and water.", "not a question"),
        (f"What is {'a starter ' * 20}?", "A starter is a mix of flour and water.", "too long"),
    ],
)  # fmt: skip
def test_problems(question: str, sentence: str, wrong: str | None) -> None:
    found = problem(question, fact(sentence))
    assert found is None if wrong is None else found is not None and wrong in found


def test_what_a_rule_wrote_is_only_the_beginning() -> None:
    dryer, is_ripe = fact("The dryer was a gift from the newspaper."), fact("Honey is ripe in July.")
    assert problem("What was the dryer's gift?", dryer, "What was the dryer") == "about another thing"
    # A question that a rule wrote from the first to the last word isn't checked for its form.
    assert problem("What is honey?", is_ripe, "What is honey") is None


@pytest.mark.parametrize(
    ("question", "needed"),
    [
        ("What does it do?", True),
        ("How long do they last?", True),
        ("What is the passage about?", True),
        ("When do you need this step?", True),
        ("What happens to bread if it is cut too early?", False),
        ("How long does it take to wash fibre paper?", False),
        ("What does it mean if a starter floats?", False),
        ("What is the ferry that leaves at noon called?", False),
        ("What is a starter?", False),
    ],
)
def test_questions_that_need_the_text(question: str, needed: bool) -> None:
    assert needs_text(question) is needed


def test_a_question_about_the_sentence_before_is_rejected() -> None:
    lasts = facts(BREAD)[1]
    assert problem("What is a starter?", lasts) == "about another sentence"
    assert problem("How long does a starter last?", lasts) is None


@given(st.text(), st.text())
def test_any_question_about_any_sentence_has_a_verdict(question: str, sentence: str) -> None:
    assert isinstance(problem(question, Fact(sentence, sentence, (sentence,))), str | None)


def test_a_reply_is_read_up_to_its_question_mark() -> None:
    assert finished(" Question: What is a starter? A mix.\nFact: …") == "What is a starter?"
    assert finished("What is a starter\n\nFact: More") == "What is a starter?"
    assert finished("什么是酵母？它产生气体。") == "什么是酵母？"


def test_the_best_question_is_the_first_of_the_highest_certainty() -> None:
    starter = facts(BREAD)[0]
    replies = [
        ("What", "What is a starter a mix of?"),  # a bare opening
        ("What does a starter", "What does a starter make of beans?"),  # has a problem
        ("What is a starter", "What is a starter a mix of?"),
        ("What is a starter", "What is a starter?"),
    ]
    assert best(replies, starter) == (3, "What is a starter?")
    assert best(replies[:2], starter) == (0, "What is a starter a mix of?")
    assert best(replies[1:2], starter) == (0, "What does a starter make of beans?")
    assert [certainty(question, opening) for opening, question in replies] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("sentence", "pair"),
    [
        ("Hydration is the weight of the water.", ("What is the weight of the water?", "Hydration.")),
        ("A tight skin helps the loaf to rise up.", ("What helps the loaf to rise up?", "A tight skin.")),
        ("A wet dough is hard to hold, but it gives an open crumb.", ("What is hard to hold?", "A wet dough.")),
        ("A lame is a thin blade; it cuts.", ("What is a thin blade?", "A lame.")),
        ("It lasts from half an hour to two hours.", None),
        ("Keep the bread in a cloth bag.", None),
        ("If the lamp blinks red, press reset.", None),
        ("A cold starter is hungry.", None),
        ("A baker who has no time can leave this step out.", None),
    ],
)
def test_the_reverse_question_of_a_sentence(sentence: str, pair: tuple[str, str] | None) -> None:
    assert reverse_question(sentence) == pair
