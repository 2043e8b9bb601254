"""Which questions evaluate a run, as plain data, so that later steps can ask other models the same questions.

eval_spec = EvaluationSpec(notes="notes.dlm", conditions=("5:upper",))
questions = eval_spec.notes_questions(*eval_spec.pairs(document), document)
questions.groups, questions.traps                         # {"seen": […], "reworded": […], …}, […]
eval_spec.question_sets(base, tokenizer)                  # {"5:upper": […]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from pydantic import TypeAdapter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import normalize
from dlm_trl.evaluation.inventions import ABSTENTION
from dlm_trl.evaluation.mcsb import McsbQuestion
from dlm_trl.evaluation.questions_file import read_questions
from dlm_trl.evaluation.recall import RecallQuestion
from dlm_trl.evaluation.suite import question_sets, read_glosses
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import NoRowsError
from dlm_trl.rows.parsed import parsed_rows
from dlm_trl.rows.split import VALIDATION_FRACTION, Method, split
from dlm_trl.tasks.mcsb import HELD_OUT

GROUPS = ("seen", "reworded", "held-out", "reverse")
UNTRAINED = GROUPS[1:]  # questions that no pair asks in these words
TRAPS = "traps"


class Place(NamedTuple):
    """Where a question is written down; line counts from 1."""

    file: str
    line: int


@dataclass(frozen=True)
class NotesQuestions:
    """What to ask about a document.

    groups: questions by group, in the order of GROUPS; no group is empty. traps: questions that the notes don't answer,
    with ABSTENTION as the expected answer. places: by group and question, where it is written: the pair in the
    document, for reworded ones too if they name their pair, else the line of the questions file.
    """

    groups: Mapping[str, Sequence[RecallQuestion]] = field(default_factory=dict)
    traps: Sequence[RecallQuestion] = ()
    places: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)

    def every(self) -> dict[str, Sequence[RecallQuestion]]:
        """All groups, with the traps as the last one if there are any."""
        return {**self.groups, **({TRAPS: self.traps} if self.traps else {})}


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """The fields are named like the recipe's settings.

    notes: None for no questions about a document. conditions: empty for no multiple-choice questions. held_out: the
    share of words that a task doesn't train on.
    """

    notes: str | None = None
    rows: str = "sft"
    adapter_name: str | None = None
    validation_fraction: float = VALIDATION_FRACTION
    split_method: Method = "source_group"
    seed: int = 42
    questions: str | None = None
    max_questions: int = 60
    conditions: Sequence[str] = ()
    condition_questions: int = 100
    held_out: float = HELD_OUT
    glosses: str | None = None

    @classmethod
    def from_record(cls, recorded: Any) -> EvaluationSpec:
        """The spec that lineage.json records. Raises ValueError if it isn't one."""
        try:
            TypeAdapter(cls).validate_python(recorded)
            return cls(**recorded)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def read_document(self) -> Document | None:
        """The document, None without one. Raises DlmError if it can't be read."""
        return read(self.notes) if self.notes else None

    def pairs(self, document: Document | None) -> tuple[Dataset | None, Dataset | None]:
        """The document's pairs to train on, and those held out; None without pairs.

        Raises DlmError for malformed pairs, and NoRowsError if `rows` selects none of them.
        """
        if document is None or all(section.kind != "instruction" for section in document.sections):
            return None, None
        kind = "sft" if self.rows == "none" else self.rows
        every = parsed_rows(document, kind, self.adapter_name)
        if every is None:
            adapter = f" for adapter {self.adapter_name!r}" if self.adapter_name else ""
            raise NoRowsError(f"The document has no rows of kind {kind!r}{adapter}.", path=document.path)
        if self.rows == "none":
            return None, every
        parts = split(every, self.validation_fraction, self.seed, self.split_method)
        return parts["train"] or None, parts["validation"] or None

    def notes_questions(
        self, learned: Dataset | None, held_out: Dataset | None, document: Document | None
    ) -> NotesQuestions:
        """The questions about the document; each group has at most max_questions.

        Left out are questions of the file that a pair asks too, up to case and punctuation: they are in that pair's
        group. Raises DlmError (QuestionsError) for an invalid questions file.
        """
        system = document.frontmatter.system_prompt if document else None
        pairs = {"seen": _pairs(learned), "held-out": _pairs(held_out)}
        found: dict[str, dict[RecallQuestion, Place]] = {
            group: dict(pairs.get(group, {})) for group in (*GROUPS, TRAPS)
        }
        in_document = {question: place for of_group in pairs.values() for (question, *_), place in of_group.items()}
        asked = {normalize(question) for question in in_document}
        for row in read_questions(self.questions) if self.questions else ():
            group = TRAPS if row.kind == "trap" else row.kind
            question = (row.question, ABSTENTION if row.kind == "trap" else row.answer, system)
            place = in_document.get(row.pair or "", Place(str(self.questions), row.line))
            if normalize(row.question) not in asked:
                found[group].setdefault(question, place)
        kept = {group: sample_evenly([*every], self.max_questions) for group, every in found.items() if every}
        return NotesQuestions(
            groups={group: kept[group] for group in GROUPS if group in kept},
            traps=kept.get(TRAPS, []),
            places={group: {q[0]: found[group][q] for q in questions} for group, questions in kept.items()},
        )

    def question_sets(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[McsbQuestion]]:
        """The multiple-choice questions by condition, described by the base; raises like `suite.question_sets`."""
        if not self.conditions:
            return {}
        return question_sets(
            base,
            tokenizer,
            conditions=self.conditions,
            count=self.condition_questions,
            held_out=self.held_out,
            glosses=read_glosses(Path(self.glosses)) if self.glosses else None,
        )


def _pairs(pairs: Dataset | None) -> dict[RecallQuestion, Place]:
    """The distinct pairs with their places; a weight above 1 repeats a pair in the dataset."""
    if pairs is None:
        return {}
    columns = (pairs[name] for name in ("prompt", "completion", "source_file", "line"))
    found: dict[RecallQuestion, Place] = {}
    for prompt, answer, file, line in zip(*columns, strict=True):
        found.setdefault(_question(prompt, answer), Place(file, line))
    return found


def _question(prompt: list[dict[str, str]], completion: list[dict[str, str]]) -> RecallQuestion:
    system = next((turn["content"] for turn in prompt if turn["role"] == "system"), None)
    return prompt[-1]["content"], completion[-1]["content"], system


def sample_evenly(questions: Sequence[RecallQuestion], limit: int) -> list[RecallQuestion]:
    """At most `limit` questions, evenly spaced over the whole document."""
    step = max(1.0, len(questions) / limit)
    return [questions[int(k * step)] for k in range(min(limit, len(questions)))]
