"""`dlm-trl evaluate MODEL`: measure a base or an adapter. The work is in `dlm_trl.evaluation.suite`."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dlm_trl.cli.shared import misuse_exits_with_2
from dlm_trl.notes.escape import printable_json
from dlm_trl.notes.terminal import console, say

if TYPE_CHECKING:
    from peft import PeftModel
    from rich.table import Table
    from transformers import PreTrainedModel

    from dlm_trl.evaluation.cloze import Cloze
    from dlm_trl.evaluation.mcsb import Binding
    from dlm_trl.evaluation.spec import NotesQuestions
    from dlm_trl.evaluation.suite import Evaluation


@misuse_exits_with_2
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A base model (tiny, a key such as smollm2-135m, hf:org/name, or a folder), the folder of an adapter, "
            "or a document you trained an adapter on.",
        ),
    ],
    ask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHOICES:LABELS",
            help="Number of options and their labels, such as 5:upper, 6-9:lower, 5:digits or 5:VWXYZ. Repeat it for "
            "several kinds of questions. Default: 5:upper, 6-9:upper, 5:lower and 5:digits.",
        ),
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="Number of questions of each kind.")] = 200,
    split: Annotated[
        Literal["held_out", "train"], typer.Option(help="Ask about held-out words, or about those used in training.")
    ] = "held_out",
    held_out: Annotated[float, typer.Option(min=0, max=1, help="Share of words that are held out.")] = 0.1,
    glosses: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="JSON file {word: description}; also ask with these descriptions."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for choosing the questions.")] = 0,
    quantization: Annotated[
        Literal["4bit", "8bit"] | None, typer.Option(help="Load the base model in 4 or 8 bit.")
    ] = None,
    lm_eval: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="OUT_DIR",
            help="Also write the questions, and for an adapter those about its notes, as lm-evaluation-harness tasks.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how well a model answers multiple-choice questions, and its perplexity on a general text.

    A question asks which of several labelled words fits a description. The base
    model writes the descriptions, and each question is asked with every rotation
    of its options. For comparison, a cloze baseline picks the word with the
    highest likelihood.

    Exit codes: 0 measured, 1 failed, 2 wrong usage.
    """
    # Hide warnings about loading weights that you can do nothing about.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from dlm_trl.evaluation import suite
    from dlm_trl.models.load import load_for_inference

    conditions = ask or [*suite.CONDITIONS]
    for condition in conditions:
        try:
            suite.parse_condition(condition)
        except ValueError as error:
            raise typer.BadParameter(f"{error}.") from None
    try:
        descriptions = None if glosses is None else suite.read_glosses(glosses)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    name = _model_or_adapter(model)
    loaded, tokenizer = load_for_inference(name, quantization)
    sets = suite.question_sets(loaded, tokenizer, conditions, questions, seed, split, held_out, descriptions)
    if lm_eval is not None:
        from dlm_trl.evaluation.lm_eval_tasks import write_tasks

        write_tasks(lm_eval, tokenizer, sets, _questions_of_the_run(Path(name)))
    result = suite.measure(loaded, tokenizer, sets)
    if json_:
        say(printable_json({"model": model, "split": split, "seed": seed, **asdict(result)}))
        return
    # Files and pipes have no width, and rich would squeeze the table to 80 columns.
    console(width=None if sys.stdout.isatty() else 160).print(_table(model, split, result))
    assert result.cloze is not None
    passes = result.cloze.passes_per_question
    say(f"Forward passes per question: 1 for an answer by label, {passes:.1f} for the cloze baseline.")
    say(f"Perplexity of the general text: {result.perplexity:.2f} per token.")
    if lm_eval is not None:
        say(f"Tasks: {lm_eval}. Ask this model, or any other:\n{_lm_eval_commands(lm_eval, Path(name), loaded)}")


def _questions_of_the_run(folder: Path) -> NotesQuestions | None:
    """What the report of a run asked about its notes; None for a model without a recorded run."""
    from dlm_trl.export.model_inputs import recorded_eval_spec
    from dlm_trl.export.record import read_lineage

    records = read_lineage(folder)
    if not records:
        return None
    spec, remarks = recorded_eval_spec(records, None)
    for remark in remarks:
        say(remark, err=True)
    document = spec.read_document()
    return spec.notes_questions(*spec.pairs(document), document)


def _lm_eval_commands(tasks: Path, folder: Path, model: PreTrainedModel | PeftModel) -> str:
    """The lines that ask this model the tasks; the questions about notes go through the chat template."""
    from dlm_trl.evaluation.lm_eval_tasks import MCSB, NOTES

    arguments = f"pretrained={model.config.name_or_path},dtype={str(model.dtype).removeprefix('torch.')}"
    if (folder / "adapter_config.json").is_file():
        arguments += f",peft={folder},tokenizer={folder}"
    start = f"lm_eval --model hf --model_args {shlex.quote(arguments)} --include_path {shlex.quote(str(tasks))}"
    notes = any(tasks.glob(f"{NOTES}_*.yaml"))
    return "\n".join(
        [f"{start} --tasks {MCSB}", *([f"{start} --tasks {NOTES} --apply_chat_template"] if notes else [])]
    )


def _model_or_adapter(model: str) -> str:
    """The folder of a document's adapter if `model` is a document, else `model` itself."""
    if not (model.endswith(".dlm") and Path(model).is_file()):
        return model
    from dlm_trl.notes import read
    from dlm_trl.notes.store import current_adapter, trained_adapter

    document = read(model)
    names = document.frontmatter.training.adapters or ()
    folders = {name: current_adapter(document.frontmatter.dlm_id, name) for name in names}
    trained = ", ".join(f"{name} ({folder})" for name, folder in folders.items() if folder)
    hint = f"Give the folder of one in place of the document: {trained}."
    return str(trained_adapter(document, None, hint, "give a base model."))


def _table(model: str, split: str, result: Evaluation) -> Table:
    from rich.table import Table

    table = Table(title=f"Multiple-choice symbol binding: {model}, {split.replace('_', '-')} words")
    table.add_column("questions", no_wrap=True)
    for column in ("n", "accuracy", "95 %", "chance", "PPA", "unchanged"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, binding in result.mcsb.items():
        table.add_row(name, *_accuracy(binding), f"{binding.ppa:.3f}", f"{binding.unchanged:.3f}")
    if result.cloze is not None:
        table.add_row(f"{next(iter(result.mcsb))}, cloze", *_accuracy(result.cloze), "–", "–")
    return table


def _accuracy(result: Binding | Cloze) -> tuple[str, str, str, str]:
    interval = f"{result.low:.2f}–{result.high:.2f}"
    return f"{result.questions}", f"{result.accuracy:.3f}", interval, f"{result.chance:.3f}"
