"""Which sentences a pair asks about: against hand labels, in several languages, and against a full search."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlm_trl.asking.facts import Fact, facts
from dlm_trl.asking.words import forms, has_form
from dlm_trl.notes import read
from dlm_trl.synth import matching
from dlm_trl.synth.matching import Matcher

ROOT = Path(__file__).parents[2]
LABELS = [json.loads(line) for line in (ROOT / "tests/data/coverage.jsonl").read_text(encoding="utf-8").splitlines()]
PROSE = {
    "German": "Ein Sauerteig ist eine Mischung aus Mehl und Wasser, in der wilde Hefen und Bakterien leben. Die Hefen "
    "bilden Gas, und das Gas lockert den Teig. Die Säure der Bakterien gibt dem Brot seinen Geschmack. Ein neuer "
    "Ansatz braucht etwa eine Woche, bis er kräftig genug ist. Roggenmehl enthält wenig Kleber und ergibt einen "
    "dichten, klebrigen Teig. Der Ofen muss auf 240 Grad vorgeheizt werden. Ein fertiges Brot klingt hohl, wenn man "
    "auf seine Unterseite klopft. Frisches Brot sollte zwei Stunden abkühlen, bevor es geschnitten wird.",
    "Japanese": "サワードウの種は小麦粉と水を混ぜたもので、野生の酵母と細菌が住んでいる。"
    "酵母はガスを作り、ガスが生地を膨らませる。細菌は酸を作り、酸がパンに酸味を与える。新しい種は約一週間で使えるようになる。ライ麦粉はグルテンが少なく、重い生地になる。"
    "オーブンは二百四十度に予熱する。焼けたパンは底をたたくと空洞の音がする。",
    "Chinese": "酵头是面粉和水的混合物，里面有野生酵母和细菌。酵母产生气体，气体使面团膨胀。细菌产生酸，"
    "酸使面包有酸味。新的酵头大约需要一个星期。黑麦粉的面筋很少，做出的面团又密又黏。烤箱要预热到二百四十度。",
}


@cache
def matcher(document: str) -> Matcher:
    if document in PROSE:
        return Matcher(facts(PROSE[document]))
    prose = [section.content for section in read(ROOT / document).sections if section.kind == "prose"]
    return Matcher([fact for content in prose for fact in facts(content)])


class Found:
    """Sentences that were found for pairs, rightly, wrongly or not at all."""

    right = wrong = missed = 0

    def add(self, pair: tuple[str, str], document: str, expected: list[str]) -> None:
        found = {fact.sentence for fact in matcher(document).match(*pair)}
        self.right += len(found & {*expected})
        self.wrong += len(found - {*expected})
        self.missed += len({*expected} - found)


def pairs_of(*documents: str) -> list[tuple[tuple[str, str], str, list[str]]]:
    rows = [row for row in LABELS if row["document"] in documents]
    assert rows
    return [((row["question"], row["answer"]), row["document"], row["sentences"]) for row in rows]


OTHERS = sorted({row["document"] for row in LABELS if row["document"].startswith("benchmarks/")})


@pytest.mark.parametrize(
    ("documents", "right", "wrong"),
    [(("recipes/notes.dlm",), 54, 0), (OTHERS, 49, 1), (tuple(PROSE), 16, 0)],
    ids=["notes", "others", "languages"],
)
def test_hand_labels(documents: tuple[str, ...], right: int, wrong: int) -> None:
    """Measured: 54 of 54 sentences, 51 of 54 and 16 of 16, none wrong. The thresholds were chosen with these pairs."""
    found = Found()
    for row in pairs_of(*documents):
        found.add(*row)
    assert found.right >= right and found.wrong <= wrong, vars(found)


def test_reworded_questions() -> None:
    """Measured: 54 of 54."""
    lines = (ROOT / "recipes/notes_questions.jsonl").read_text(encoding="utf-8").splitlines()
    reworded = {row["question"]: row["reworded"] for row in map(json.loads, lines) if "reworded" in row}
    found = Found()
    for (question, answer), document, sentences in pairs_of("recipes/notes.dlm"):
        found.add((reworded[question], answer), document, sentences)
    assert found.right >= 53 and found.wrong <= 1, vars(found)


def test_pairs_about_other_texts_match_nothing() -> None:
    """Measured: of 630 pairs, 10 are found, in 14 sentences ("What are the core hours?" in opening times)."""
    english = ["recipes/notes.dlm", *OTHERS]
    found, asked = Found(), 0
    for document in english:
        for pair, _, _ in pairs_of(*(other for other in english if other != document)):
            found.add(pair, document, [])
            asked += 1
    assert asked > 600 and found.wrong <= 0.025 * asked, vars(found)


WORDS = st.sampled_from(["keep", "keeps", "kept", "shape", "shaping", "ring", "red", "reduce", "10", "100", "酵", "母"])


@given(st.lists(WORDS), WORDS)
def test_forms_are_the_words_that_have_the_form(among: list[str], word: str) -> None:
    assert list(forms(sorted(among), word)) == sorted(other for other in among if has_form([other], word))


@pytest.mark.parametrize(
    ("word", "other"), [("shaping", "shape"), ("keeps", "keep"), ("keep", "keeps"), ("fed", "fed")]
)
def test_a_form_is_found(word: str, other: str) -> None:
    assert has_form({other, "x"}, word)


@pytest.mark.parametrize(("word", "other"), [("ring", "rye"), ("salt", "salamander"), ("keeper", "knead")])
def test_another_word_is_not_a_form(word: str, other: str) -> None:
    assert not has_form({other}, word)


TEXT = st.lists(st.sampled_from("bcdefg"), min_size=1, max_size=4).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=12), TEXT, st.integers(0, 3), st.integers(1, 12))
@example(["b", "c d", "c", "d", "e", "f"], "b c d", 0, 6)  # two common words outweigh a rare one
def test_the_first_sentence_is_the_best_of_all(sentences: list[str], answer: str, begin: int, size: int) -> None:
    among = range(begin, min(begin + size, len(sentences)))
    tried = Matcher([Fact(sentence, sentence, (sentence,)) for sentence in sentences])
    looked_up = tried._look_up(set(answer.split()))
    expected = max((sum(word.value({i}) for word in looked_up) for i in among), default=0.0)
    best = matching._best(looked_up, among)
    assert expected == pytest.approx(0.0 if best is None else sum(word.value({best}) for word in looked_up))
