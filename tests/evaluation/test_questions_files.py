"""The project's own questions files say what their documents say, and their traps ask what these don't."""

from collections import Counter
from pathlib import Path

import pytest

from dlm_trl.asking.words import content_words, has_form, overlap
from dlm_trl.evaluation.answers import normalize, token_f1
from dlm_trl.evaluation.questions_file import FileQuestion, read_questions
from dlm_trl.notes import read
from dlm_trl.notes.sentences import paragraphs

ROOT = Path(__file__).parents[2]
FILES = {
    "recipes/notes.dlm": ("recipes/notes_questions.jsonl", 24, 20, 16),
    "benchmarks/data/lighthouse.dlm": ("benchmarks/data/lighthouse_questions.jsonl", 12, 6, 6),
    "benchmarks/data/bicycle.dlm": ("benchmarks/data/bicycle_questions.jsonl", 12, 6, 6),
}
# Words that a question needs, whatever it's about.
OF_QUESTIONS = {
    "how",
    "many",
    "much",
    "when",
    "where",
    "who",
    "why",
    "long",
    "do",
    "did",
    "you",
    "not",
    "must",
    "should",
}


def prose(document: str) -> list[str]:
    """The sentences of the document's prose."""
    sections = (section for section in read(ROOT / document).sections if section.kind == "prose")
    return [sentence for section in sections for of_one in paragraphs(section.content) for sentence in of_one]


def questions(document: str, *kinds: str) -> list[FileQuestion]:
    return [row for row in read_questions(str(ROOT / FILES[document][0])) if row.kind in kinds]


@pytest.mark.parametrize("document", FILES)
def test_there_are_enough_questions_of_each_kind_and_none_twice(document: str) -> None:
    file, *least = FILES[document]
    every = read_questions(str(ROOT / file))
    counts = Counter(row.kind for row in every)
    for kind, at_least in zip(("held-out", "reverse", "trap"), least, strict=True):
        assert counts[kind] >= at_least, kind
    asked = [normalize(row.question) for row in every]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("document", FILES)
def test_every_answer_is_in_the_sentence_that_its_question_is_about(document: str) -> None:
    sentences = prose(document)
    for row in questions(document, "held-out", "reverse"):
        assert overlap(row.answer, " ".join(sentences)) == 1, row
        neighbours = [" ".join(sentences[max(0, n - 2) : n + 1]) for n in range(len(sentences))]
        about = " ".join(content_words(row.question) - OF_QUESTIONS)
        best = max(overlap(about, text) for text in neighbours if overlap(row.answer, text) == 1)
        assert best >= 0.5, row


@pytest.mark.parametrize("document", FILES)
def test_no_question_gives_its_answer_away(document: str) -> None:
    for row in questions(document, "held-out", "reverse"):
        left = content_words(row.answer) - content_words(row.question)
        assert left, row


def test_no_pair_of_the_demo_asks_a_held_out_question() -> None:
    pairs = [pair for s in read(ROOT / "recipes/notes.dlm").sections if s.kind == "instruction" for pair in s.pairs()]
    for row in questions("recipes/notes.dlm", "held-out", "reverse", "trap"):
        for pair in pairs:
            assert normalize(row.question) != normalize(pair.question)
            if row.kind == "held-out" and token_f1(row.answer, pair.answer) == 1:
                assert token_f1(row.question, pair.question) < 0.5, (row, pair)


@pytest.mark.parametrize("document", FILES)
def test_traps_are_near_the_topic_and_ask_for_what_the_document_does_not_say(document: str) -> None:
    known = content_words(" ".join(prose(document)))
    for row in questions(document, "trap"):
        asked = content_words(row.question) - OF_QUESTIONS
        inside = {word for word in asked if word in known or has_form(known, word)}
        assert inside and asked - inside, row
