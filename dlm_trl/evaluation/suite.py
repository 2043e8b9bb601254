"""All of a model's numbers at once: `evaluate_model("tiny")`, or, before, during and after a run on the same questions:

    sets = question_sets(model, tokenizer, CONDITIONS, count=200)      # once: the base writes the descriptions
    measure(model, tokenizer, sets).numbers()                          # as often as wanted

and `evaluation.during` does so while a run goes on.

A condition is `CHOICES:LABELS`, such as `5:upper`, `6-9:digits` or `5:VWXYZ`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.evaluation.cloze import Cloze, cloze
from dlm_trl.evaluation.mcsb import Binding, McsbQuestion, described_questions, glossed_questions, measure_binding
from dlm_trl.evaluation.perplexity import general_perplexity
from dlm_trl.models.generate import row_seed
from dlm_trl.models.load import Quantization, load_adapted, load_base, load_tokenizer
from dlm_trl.notes.errors import EvaluationError
from dlm_trl.tasks.mcsb import HELD_OUT, Mcsb, Split, contains_word

CONDITIONS = ("5:upper", "6-9:upper", "5:lower", "5:digits")

QuestionSets = Mapping[str, Sequence[McsbQuestion]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `measure` found: MCSB for each set of questions, the cloze baseline on the first, and what else was read."""

    mcsb: dict[str, Binding]
    cloze: Cloze | None
    perplexity: float  # of the general text, per token

    def numbers(self) -> dict[str, float]:
        """What a log keeps, under flat names: `mcsb/5:upper/accuracy`, `cloze/accuracy`, `perplexity`, …"""
        found = {"perplexity": self.perplexity}
        for name, one in self.mcsb.items():
            shown = ("accuracy", "low", "high", "chance", "ppa")
            found |= {f"mcsb/{name}/{key}": getattr(one, key) for key in shown}
        return found if self.cloze is None else found | {"cloze/accuracy": self.cloze.accuracy}


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
    """Load a base by its name, or the adapter in a folder with its base, and measure it; for the rest, see below.

    In the dtype of `precision.inference_dtype`, unless it is quantised. Raises DlmError (BaseModelError, AdapterError,
    MissingExtraError), and what `question_sets` raises.
    """
    model, tokenizer = open_model(base_or_adapter, quantization)
    sets = question_sets(model, tokenizer, conditions, count, seed, split, held_out, glosses)
    return measure(model, tokenizer, sets)


def open_model(
    base_or_adapter: str, quantization: Quantization | None = None
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The model on this process's device, and its tokenizer."""
    if (Path(base_or_adapter).expanduser() / "adapter_config.json").is_file():
        model, tokenizer = load_adapted(Path(base_or_adapter).expanduser(), "inference", quantization)
    else:
        tokenizer = load_tokenizer(base_or_adapter)
        model = load_base(base_or_adapter, "inference", quantization)
    return (model if quantization else model.to(PartialState().device)).eval(), tokenizer


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
    """`count` questions for each condition, on words of one side of the split; the same in every process.

    The base describes the words, with its adapter switched off; where it could not do so often enough there are fewer
    questions. glosses: a description for each of other words; the first condition is asked about them as well, under
    the name `glosses`. Raises ValueError for a condition that cannot be read, DlmError (UsageError, TokenizerError) for
    one that cannot be asked, and (EvaluationError) where the base could describe no word at all.
    """
    tasks = condition_tasks(tokenizer, conditions, split, held_out)
    sets = {name: described_questions(model, task, count, row_seed(seed, name)) for name, task in tasks.items()}
    if empty := [name for name, asked in sets.items() if not asked]:
        raise EvaluationError(
            f"No description that the base wrote can be asked about ({', '.join(empty)}).",
            hint="Each was empty, contained its word or did not end. Measure with another base.",
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
    """The task of each condition; needs no weights. Raises as `question_sets` does."""
    parsed = {name: parse_condition(name) for name in conditions}
    return {
        name: Mcsb(tokenizer, choices=choices, labels=labels, split=split, held_out=held_out)
        for name, (choices, labels) in parsed.items()
    }


def read_glosses(file: Path) -> dict[str, str]:
    """Descriptions by word. Raises ValueError, which says what is wrong with the file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    if not (isinstance(found, dict) and found and all(isinstance(gloss, str) for gloss in found.values())):
        raise ValueError(f"{file} must hold one object with a text for each word")
    return found


def measure(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: QuestionSets,
    with_cloze: bool = True,
) -> Evaluation:
    """Everything about the model as it stands; mode and random state are afterwards what they were.

    Cloze costs more than the rest. Raises ValueError for a set without questions.
    """
    return Evaluation(
        mcsb={name: measure_binding(model, tokenizer, asked) for name, asked in sets.items()},
        cloze=cloze(model, tokenizer, next(iter(sets.values()))) if with_cloze else None,
        perplexity=general_perplexity(model, tokenizer),
    )


def parse_condition(condition: str) -> tuple[int | tuple[int, int], str]:
    """Choices and labels as `Mcsb` takes them. Raises ValueError."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?:(\w+)", condition)
    if found is None:
        raise ValueError(f"{condition!r} is not CHOICES:LABELS, such as 5:upper or 6-9:digits")
    least, most, labels = found.groups()
    return (int(least) if most is None else (int(least), int(most))), labels
