"""Edits of a known pair are duplicates; pairs that only sound alike aren't."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm_trl.synth.dedup import Index
from dlm_trl.synth.pairs import QAPair

FRANCE = QAPair("What is the capital of France?", "The capital of France is Paris.")
MEMORY = QAPair("How does C++ free memory?", "By destructors, which run at the end of a scope in reverse order.")
YES = QAPair("Is a lota used in Asia for water?", "Yes.")
BIRTH = QAPair("When was Ada Lovelace born?", "In 1815.")


@pytest.fixture(scope="module")
def index() -> Index:
    found = Index()
    for name, pair in {"france": FRANCE, "memory": MEMORY, "yes": YES, "birth": BIRTH}.items():
        found.add(pair, name)
    return found


@pytest.mark.parametrize(
    ("pair", "name", "exact"),
    [
        (FRANCE, "france", True),
        (QAPair("WHAT  is the “capital” of France", "the capital of france is Paris!"), "france", True),
        (QAPair("What is the capital of Francia?", FRANCE.answer), "france", False),
        (QAPair("So, what is the capital of France?", FRANCE.answer), "france", False),
        (QAPair("Please, what is the capital of France?", "Well, the capital of France is Paris."), "france", False),
        (QAPair("What is a capital of France?", "Capital of France is Paris."), "france", False),
        (QAPair(FRANCE.question, "It is Lyon, as far as I know."), "france", False),
        (QAPair(FRANCE.question, "The capital of France is Lyon."), "france", False),
        (QAPair("Is a lota used in Africa for water?", "Yes."), "yes", False),
    ],
)
def test_edits_of_a_known_pair_are_found(index: Index, pair: QAPair, name: str, exact: bool) -> None:
    match = index.nearest(pair)
    assert match is not None
    assert (match.name, match.same == "pair") == (name, exact)
    assert match.score == 1 if exact else 0 < match.score < 1


@pytest.mark.parametrize(
    "pair",
    [
        QAPair("What is the capital of Spain?", "The capital of Spain is Madrid."),
        QAPair("How does C# free memory?", "By a collector, which runs when it likes."),
        QAPair("Where was Ada Lovelace born?", "In London."),
        QAPair("Is the capital of France used in Asia for water?", "Yes."),
        QAPair("Which city do people from Lyon visit most?", FRANCE.answer),
        QAPair("What is the capital?", "Paris."),
    ],
)
def test_pairs_that_only_sound_alike_are_kept(index: Index, pair: QAPair) -> None:
    assert index.nearest(pair) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (QAPair("What does x < y mean?", "x is less."), QAPair("What does x > y mean?", "x is greater.")),
        (QAPair("What is 3 + 4?", "7"), QAPair("What is 3 - 4?", "-1")),
        (QAPair("What is 1/5 in percent?", "20"), QAPair("What is 1.5 in percent?", "150")),
        (QAPair("What happens at -5 degrees?", "Dew freezes."), QAPair("What happens at 5 degrees?", "Dew stays.")),
        (QAPair("What does && do?", "Logical and."), QAPair("What does || do?", "Logical or.")),
        (QAPair("What is `!=`?", "Not equal."), QAPair("What is `==`?", "Equal.")),
        (QAPair("What is [] in Python?", "A list."), QAPair("What is {} in Python?", "A dict.")),
        (
            QAPair("What does `Map` do?", "Holds keys with values."),
            QAPair("What does `map` do?", "Applies a function."),
        ),
        (QAPair("How do you add two numbers?", "`a + b`"), QAPair("How do you subtract two numbers?", "`a - b`")),
        (QAPair("What does 😀 mean?", "Joy."), QAPair("What does 😢 mean?", "Sorrow.")),
        (QAPair("What costs $5?", "Tea."), QAPair("What costs €5?", "Coffee.")),
        (QAPair("天空是蓝色的吗？", "是的。"), QAPair("水是湿的吗？", "是的。")),
        (QAPair("露はいつできますか。", "夜です。"), QAPair("星はいつ見えますか。", "夜です。")),
        (QAPair("ป่าคืออะไร", "ที่มีต้นไม้มาก"), QAPair("ป้าคืออะไร", "พี่สาวของแม่")),
        (QAPair("दिन क्या है?", "समय का एक भाग।"), QAPair("दान क्या है?", "कुछ देना।")),
    ],
)
def test_symbols_code_and_signs_of_other_scripts_distinguish_pairs(one: QAPair, other: QAPair) -> None:
    for known, new in ((one, other), (other, one)):
        index = Index()
        index.add(known, "known")
        assert index.nearest(new) is None


@pytest.mark.parametrize(
    "pair",
    [
        QAPair("What's the well-known name of dew?", "It's water from the air, in drops."),
        QAPair("Ｗｈａｔ is the **well known** name of dew?", "It is `water` from the air, in *drops*."),
        QAPair("What is the well-known na\u00adme of dew\u200b?", "It is water from the air – in drops."),
    ],
)
def test_other_ways_of_writing_a_pair_are_found(pair: QAPair) -> None:
    index = Index()
    index.add(QAPair("What is the well-known name of dew?", "It is water from the air, in drops."), "known")
    assert index.nearest(pair) is not None


def test_other_ways_of_writing_chinese_are_found() -> None:
    index = Index()
    index.add(QAPair("法国的首都是哪里？", "巴黎。"), "known")
    assert index.nearest(QAPair("法国的首都是哪里?", "巴黎")).same == "pair"  # type: ignore[union-attr]
    assert index.nearest(QAPair("法国的首都在哪里？", "巴黎。")) is not None


PADDING = " ".join(f"word{i}" for i in range(400))


def test_a_long_text_in_common_hides_neither_an_edit_nor_a_difference() -> None:
    index = Index()
    for i in range(50):
        index.add(QAPair(f"About {PADDING}: what is thing{i}?", f"{PADDING}. It is stuff{i}."), f"pair {i}")
    edit = QAPair(f"About {PADDING}: what is thing7?", f"{PADDING}. It is stuff51.")
    assert index.nearest(edit).name == "pair 7"  # type: ignore[union-attr]
    edit = QAPair(f"About {PADDING}: what is thing51?", f"{PADDING}. It is stuff7.")
    assert index.nearest(edit).name == "pair 7"  # type: ignore[union-attr]
    assert index.nearest(QAPair(f"About {PADDING}: what is thing51?", f"{PADDING}. It is stuff51.")) is None


WORDS = st.sampled_from(["dew", "hail", "snow", "fog", "rain", "frost", "sleet", "mist", "the", "is", "Yes"])
SENTENCES = st.lists(WORDS, min_size=3, max_size=20).map(" ".join)


@settings(derandomize=True)  # one question in 100,000 is not found
@given(SENTENCES, SENTENCES, st.integers(0, 99), st.booleans())
def test_one_changed_word_in_one_text_is_an_edit(question: str, answer: str, at: int, in_question: bool) -> None:
    index = Index()
    index.add(QAPair(question, answer), "first")
    words = (question if in_question else answer).split()
    words[at % len(words)] = "graupel"
    changed = " ".join(words)
    match = index.nearest(QAPair(changed, answer) if in_question else QAPair(question, changed))
    assert match is not None and match.name == "first"


@given(st.lists(st.tuples(SENTENCES, SENTENCES), max_size=6), SENTENCES, SENTENCES)
def test_a_changed_word_in_both_texts_is_another_pair(known: list[tuple[str, str]], question: str, answer: str) -> None:
    index = Index()
    for i, pair in enumerate(known):
        index.add(QAPair(*pair), str(i))
    assert index.nearest(QAPair(f"{question} graupel", f"{answer} virga")) is None


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_any_text_is_accepted(pairs: list[tuple[str, str]]) -> None:
    index = Index()
    for i, pair in enumerate(pairs):
        index.add(QAPair(*pair), str(i))
        assert index.nearest(QAPair(*pair)).same == "pair"  # type: ignore[union-attr]


def test_a_long_run_of_backticks_is_fast(index: Index) -> None:
    # A quadratic reader would take hours; that this ends is the test.
    assert index.nearest(QAPair("What is a fence?", "`" * 1_000_000)) is None


def test_the_nearest_of_several_is_reported() -> None:
    index = Index()
    index.add(QAPair("What is dew made of?", "It is water from the air."), "near")
    index.add(QAPair("What is dew?", "It is water from the air."), "nearest")
    assert index.nearest(QAPair("What is dew made?", "It is water from the air.")).name == "near"  # type: ignore[union-attr]
    assert index.nearest(QAPair("What was dew?", "It is water from the air.")).name == "nearest"  # type: ignore[union-attr]
