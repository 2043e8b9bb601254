"""`dlm-trl evaluate MODEL`: what a base or an adapter can do. A thin function around `dlm_trl.evaluation.suite`."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dlm_trl.cli.synth import misuse_exits_with_2

if TYPE_CHECKING:
    from rich.table import Table

    from dlm_trl.evaluation.suite import Evaluation


@misuse_exits_with_2
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A base (tiny, a key such as smollm2-135m, hf:org/name, a folder), the folder of an adapter, "
            "or a document with a trained adapter.",
        ),
    ],
    ask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHOICES:LABELS",
            help="Kinds of questions, such as 5:upper, 6-9:lower, 5:digits, 5:VWXYZ; can be given several times. "
            "Default: 5:upper, 6-9:upper, 5:lower and 5:digits.",
        ),
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 200,
    split: Annotated[
        Literal["held_out", "train"], typer.Option(help="Words that training never meets, or those it does.")
    ] = "held_out",
    held_out: Annotated[float, typer.Option(min=0, max=1, help="Share of the words that is held out.")] = 0.1,
    glosses: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSON, {word: description}: also ask with these descriptions."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other questions.")] = 0,
    quantization: Annotated[
        Literal["4bit", "8bit"] | None, typer.Option(help="Load the base's weights in 4 or 8 bit.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Measure how well a model answers multiple-choice questions, and how well it reads.

    The questions ask which of several lettered words a description means, in every rotation of the words; the base
    writes the descriptions. Beside it the cloze baseline, which compares the words themselves, and the perplexity of a
    general text. Exit 0: measured, 1: a failure, 2: misuse.
    """
    # Warnings about the loading of weights that a user can do nothing about.
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
        given = None if glosses is None else suite.read_glosses(glosses)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    loaded, tokenizer = load_for_inference(_adapter(model), quantization)
    sets = suite.question_sets(loaded, tokenizer, conditions, questions, seed, split, held_out, given)
    found = suite.measure(loaded, tokenizer, sets)
    if json_:
        typer.echo(json.dumps({"model": model, "split": split, "seed": seed, **asdict(found)}, ensure_ascii=False))
        return
    from rich.console import Console

    # A file or a pipe has no width of its own, and a table must not be squeezed there.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(_table(model, split, found))
    assert found.cloze is not None
    typer.echo(f"The cloze baseline takes {found.cloze.passes_per_question:.1f} forward passes a question, a label 1.")
    typer.echo(f"Perplexity of the general text: {found.perplexity:.2f} per token.")


def _adapter(model: str) -> str:
    """The adapter of a document, where a document is named; anything else as it is."""
    if not (model.endswith(".dlm") and Path(model).is_file()):
        return model
    from dlm_trl.notes import read
    from dlm_trl.notes.store import current_adapter, trained_adapter

    document = read(model)
    names = document.frontmatter.training.adapters or ()
    found = {name: current_adapter(document.frontmatter.dlm_id, name) for name in names}
    named = ", ".join(f"{name} ({folder})" for name, folder in found.items() if folder)
    naming = f"Give the folder of one in place of the document: {named}."
    folder = trained_adapter(document, None, naming, "name a base.")
    return str(folder)


def _table(model: str, split: str, found: Evaluation) -> Table:
    from rich.table import Table

    table = Table(title=f"Multiple-choice symbol binding: {model}, {split.replace('_', '-')} words")
    table.add_column("questions", no_wrap=True)
    for column in ("n", "accuracy", "95 %", "chance", "PPA", "unchanged"):
        table.add_column(column, justify="right", no_wrap=True)
    steady = {name: (f"{one.ppa:.3f}", f"{one.unchanged:.3f}") for name, one in found.mcsb.items()}
    for name, one in (found.mcsb | {f"{next(iter(found.mcsb))}, cloze": found.cloze}).items():
        interval = f"{one.low:.2f}–{one.high:.2f}"
        shown = (f"{one.questions}", f"{one.accuracy:.3f}", interval, f"{one.chance:.3f}")
        table.add_row(name, *shown, *steady.get(name, ("–", "–")))
    return table
