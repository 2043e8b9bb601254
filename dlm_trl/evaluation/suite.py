"""All numbers of a model at once: `evaluate_model("tiny")`. Or repeatedly, with the same questions:

    sets = question_sets(model, tokenizer, CONDITIONS, count=200)      # once: the base writes the descriptions
    measure(model, tokenizer, sets).numbers()                          # before, during and after training

A condition is `CHOICES:LABELS`, such as `5:upper`, `6-9:digits` or `5:VWXYZ`. `evaluation.during` measures in a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.cloze import Cloze, cloze
from dlm_trl.evaluation.mcsb import Binding, McsbQuestion, described_questions, glossed_questions, measure_binding
from dlm_trl.evaluation.perplexity import general_perplexity
from dlm_trl.models.generate import row_seed
from dlm_trl.models.load import Quantization, load_for_inference
from dlm_trl.notes.errors import EvaluationError
from dlm_trl.tasks.mcsb import HELD_OUT, Mcsb, Split, contains_word

CONDITIONS = ("5:upper", "6-9:upper", "5:lower", "5:digits")

QuestionSets = Mapping[str, Sequence[McsbQuestion]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `measure`: MCSB for each question set, the cloze baseline on the first one, and the perplexity."""

    mcsb: dict[str, Binding]
    cloze: Cloze | None
    perplexity: float  # of the general text, per token

    def numbers(self) -> dict[str, float]:
        """Numbers for a log, with flat names: `mcsb/5:upper/accuracy`, `cloze/accuracy`, `perplexity`, …"""
        numbers = {"perplexity": self.perplexity}
        for name, binding in self.mcsb.items():
            keys = ("accuracy", "low", "high", "chance", "ppa")
            numbers |= {f"mcsb/{name}/{key}": getattr(binding, key) for key in keys}
        return numbers if self.cloze is None else numbers | {"cloze/accuracy": self.cloze.accuracy}


def evaluate_model(
    base_or_adapter: str,
    conditions: Sequence[str] = CONDITIONS,
    count: int = 200,
    seed: int = 0,
    split: Split = "held_out",
    held_out: float = HELD_OUT,
    glosses: Mapping[str, str] | None = None,
    quantization: Quantization | None = None,
) -> Evaluation:
    """Load a base model by name, or an adapter and its base from a folder, and measure it.

    For the other arguments see `question_sets`. Unless quantised, the model is in the dtype of
    `precision.inference_dtype`. Raises DlmError (BaseModelError, AdapterError, MissingExtraError), and what
    `question_sets` raises.
    """
    model, tokenizer = load_for_inference(base_or_adapter, quantization)
    sets = question_sets(model, tokenizer, conditions, count, seed, split, held_out, glosses)
    return measure(model, tokenizer, sets)


def question_sets(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    conditions: Sequence[str] = CONDITIONS,
    count: int = 200,
    seed: int = 0,
    split: Split = "held_out",
    held_out: float = HELD_OUT,
    glosses: Mapping[str, str] | None = None,
) -> dict[str, list[McsbQuestion]]:
    """`count` questions for each condition, about words of one side of the split; the same in every process.

    The base describes the words, with the adapter disabled. If too many descriptions are rejected, there are fewer
    questions. glosses: descriptions of additional words; the first condition also asks about these, under the name
    `glosses`. Raises ValueError for an invalid condition; DlmError: UsageError or TokenizerError for a condition that
    this tokenizer can't ask, EvaluationError if the base can't describe a single word.
    """
    tasks = condition_tasks(tokenizer, conditions, split, held_out)
    sets = {name: described_questions(model, task, count, row_seed(seed, name)) for name, task in tasks.items()}
    if empty := [name for name, asked in sets.items() if not asked]:
        raise EvaluationError(
            f"None of the base model's descriptions is usable ({', '.join(empty)}).",
            hint="All were empty, contained their word or didn't end. Use another base model.",
        )
    if glosses is not None:
        choices, labels = parse_condition(conditions[0])
        fit = {word: gloss for word, gloss in glosses.items() if not contains_word(gloss, word)}
        task = Mcsb(tokenizer, choices=choices, labels=labels, split=split, held_out=held_out, words=[*fit])
        sets["glosses"] = glossed_questions(task, fit, count, row_seed(seed, "glosses"))
    return sets


def condition_tasks(
    tokenizer: PreTrainedTokenizerBase, conditions: Sequence[str], split: Split = "held_out", held_out: float = HELD_OUT
) -> dict[str, Mcsb]:
    """The task of each condition; needs no weights. Raises like `question_sets`."""
    parsed = {name: parse_condition(name) for name in conditions}
    return {
        name: Mcsb(tokenizer, choices=choices, labels=labels, split=split, held_out=held_out)
        for name, (choices, labels) in parsed.items()
    }


def read_glosses(file: Path) -> dict[str, str]:
    """Descriptions by word. Raises ValueError for an invalid file."""
    try:
        glosses = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be read as JSON: {error}") from None
    if not (isinstance(glosses, dict) and glosses and all(isinstance(gloss, str) for gloss in glosses.values())):
        raise ValueError(f"{file} must be a JSON object with a description for each word")
    return glosses


def measure(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: QuestionSets,
    with_cloze: bool = True,
) -> Evaluation:
    """Measure the model; its mode and the random state don't change.

    Cloze takes longer than everything else. Raises ValueError for an empty question set.
    """
    return Evaluation(
        mcsb={name: measure_binding(model, tokenizer, asked) for name, asked in sets.items()},
        cloze=cloze(model, tokenizer, next(iter(sets.values()))) if with_cloze else None,
        perplexity=general_perplexity(model, tokenizer),
    )


def parse_condition(condition: str) -> tuple[int | tuple[int, int], str]:
    """Choices and labels as `Mcsb` takes them. Raises ValueError for an invalid condition."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?:(\w+)", condition)
    if match is None:
        raise ValueError(f"{condition!r} doesn't have the form CHOICES:LABELS, such as 5:upper or 6-9:digits")
    least, most, labels = match.groups()
    return (int(least) if most is None else (int(least), int(most))), labels
