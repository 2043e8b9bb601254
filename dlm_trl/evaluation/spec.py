"""Which questions evaluate a run, as plain data, so that later steps can ask other models the same questions.

eval_spec = EvaluationSpec(notes="notes.dlm", conditions=("5:upper",))
eval_spec.recall_questions(*eval_spec.pairs())            # {"seen": […], "held-out": […]}
eval_spec.question_sets(base, tokenizer)                  # {"5:upper": […]}
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.mcsb import McsbQuestion
from dlm_trl.evaluation.recall import RecallQuestion
from dlm_trl.evaluation.suite import question_sets, read_glosses
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import NoRowsError, QuestionsError
from dlm_trl.rows.parsed import parsed_rows
from dlm_trl.rows.split import VALIDATION_FRACTION, Method, split
from dlm_trl.tasks.mcsb import HELD_OUT


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
    max_questions: int = 100
    conditions: Sequence[str] = ()
    condition_questions: int = 100
    held_out: float = HELD_OUT
    glosses: str | None = None

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

    def recall_questions(
        self, learned: Dataset | None, held_out: Dataset | None, document: Document | None
    ) -> dict[str, list[RecallQuestion]]:
        """The questions to ask, by group: "seen", "held-out", "reworded"; empty groups are left out."""
        system_prompt = document.frontmatter.system_prompt if document else None
        groups = {
            "seen": _questions(learned),
            "held-out": _questions(held_out),
            "reworded": read_questions(self.questions, system_prompt) if self.questions else [],
        }
        return {group: sample_evenly(every, self.max_questions) for group, every in groups.items() if every}

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


def read_questions(path: str, system_prompt: str | None) -> list[RecallQuestion]:
    """The reworded questions of a JSON-lines file. Raises DlmError (QuestionsError) with the line of an invalid one."""
    file = Path(path)
    if not file.is_file():
        raise QuestionsError("The questions file doesn't exist.", hint="Check the path.", path=file)
    try:
        with file.open(encoding="utf-8") as stream:
            lines = list(stream)
    except UnicodeDecodeError as error:
        raise QuestionsError("The questions file isn't UTF-8.", hint="Save it as UTF-8.", path=file) from error
    questions = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            questions.append((row["reworded"], row["answer"], system_prompt))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise QuestionsError(
                "Invalid question.",
                hint="Each line is a JSON object with question, reworded and answer.",
                path=file,
                line=number,
            ) from error
    return questions


def _questions(pairs: Dataset | None) -> list[RecallQuestion]:
    """The distinct pairs; a weight above 1 repeats a pair in the dataset."""
    if pairs is None:
        return []
    every = (_question(prompt, answer) for prompt, answer in zip(pairs["prompt"], pairs["completion"], strict=True))
    return list(dict.fromkeys(every))


def _question(prompt: list[dict[str, str]], completion: list[dict[str, str]]) -> RecallQuestion:
    system = next((turn["content"] for turn in prompt if turn["role"] == "system"), None)
    return prompt[-1]["content"], completion[-1]["content"], system


def sample_evenly(questions: Sequence[RecallQuestion], limit: int) -> list[RecallQuestion]:
    """At most `limit` questions, evenly spaced over the whole document."""
    step = max(1.0, len(questions) / limit)
    return [questions[int(k * step)] for k in range(min(limit, len(questions)))]
