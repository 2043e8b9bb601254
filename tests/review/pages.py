"""A document with staged and rejected pairs, and its review page on a real server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from dlm_trl.asking.facts import facts
from dlm_trl.notes import read
from dlm_trl.review.app import application
from dlm_trl.review.decisions import Review
from dlm_trl.review.serve import address, listen, server
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.rejected import Rejected, keep
from dlm_trl.synth.staging import Staged, as_staged, stage
from tests.synth.writer import HEAD

AT = "2026-04-24T10:18:42Z"
TOKEN = "a-token"
YEAST = "The yeast makes gas, and the gas lifts the dough."
TEXT = f"""{HEAD}# Bread

A starter has yeast in it.
{YEAST} The bacteria make acids.

::instruction::
### Q
What do the bacteria make?
### A
Acids.

::prose::
> Salt slows the yeast
> down. Bakers weigh their salt.
"""
SCORES = Scores(0.4, 3.17, 1.0, novelty=2.0, ending=-1.0)
LIMITS = {"margin": 0.1, "grounding": 0.7, "overlap": 0.5}
PAIRS = [
    ("What has yeast in it?", "A starter.", 0, "hf:one"),
    ("What lifts the dough?", "The gas.", 0, "hf:two"),
    ("What slows the yeast down?", "Salt.", 2, "hf:one"),
]


def candidate(path: Path, question: str, answer: str, section: int, teacher: str = "hf:one") -> Candidate:
    prose = read(path).sections[section]
    return Candidate(
        QAPair(question, answer), prose.section_id, "extraction", prose.content, f"key of {question}", 0, teacher,
        scores=SCORES, limits=LIMITS,
    )  # fmt: skip


def document(path: Path, text: str = TEXT) -> list[Staged]:
    """Write a document, stage three pairs for it and reject one; returns the staged ones, in the order of the page."""
    path.write_bytes(text.encode())
    items = stage(read(path), [candidate(path, *pair) for pair in PAIRS], AT)
    low = replace(candidate(path, "Who bakes?", "The baker.", 0), scores=replace(SCORES, grounding=0.31))
    keep(read(path), [Rejected(*as_staged(read(path), [low], AT), "grounding", "grounding below 0.70: 0.31")])
    return items


def many(path: Path, notes: Path, count: int) -> None:
    """A copy of these notes with this many staged pairs about their sentences."""
    path.write_bytes(notes.read_bytes())
    prose = [section for section in read(path).sections if section.kind == "prose"]
    found = [(section, fact.sentence) for section in prose for fact in facts(section.content)]
    staged = []
    for i in range(count):
        section, sentence = found[i % len(found)]
        pair = QAPair(f"What does sentence {i} say?", sentence)
        scores = replace(SCORES, margin=i / 100)
        staged.append(
            Candidate(pair, section.section_id, "extraction", section.content, f"{i}", 0, "hf:one", None, scores)
        )
    stage(read(path), staged, AT)


class Page(NamedTuple):
    """The page of a document: its address, the document's path, and what the server holds."""

    url: str
    path: Path
    review: Review

    @property
    def text(self) -> str:
        """The document as it is in the file."""
        return self.path.read_bytes().decode()


@contextmanager
def serving(path: Path) -> Iterator[Page]:
    """Serve the review page of this document on a free port."""
    review = Review(path)
    with listen(0) as listening:
        running = server(application(review, TOKEN))
        thread = Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Page(address(listening, TOKEN), path, review)
        finally:
            running.should_exit = True
            thread.join()
