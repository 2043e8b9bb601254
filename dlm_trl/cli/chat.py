"""`dlm-trl chat PATH`: talk to a model. The work is in `dlm_trl.chat`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from dlm_trl.cli.shared import misuse_exits_with_2, silence_libraries
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.terminal import console, say


@misuse_exits_with_2
def chat(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="The folder of a training run, a merged or a quantized model, a .dlm document (its current adapter), "
            "or a base model such as smollm2-135m.",
        ),
    ],
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Answer this question and exit.", show_default=False)
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="The document, for /notes and its system prompt. Default: the one that the model was trained on.",
        ),
    ] = None,
    adapter_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of a document's named adapters.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature. 0 is greedy decoding, as in the report.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed for sampling. No effect at temperature 0.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = 256,
    json_: Annotated[
        bool,
        typer.Option("--json", help="Print an answer per line as JSON; with --question, or questions from a pipe."),
    ] = False,
) -> None:
    """Talk to a model: right after training, or to compare it with its base.

    At a terminal, answers appear as they are written. /base switches the
    adapter off, /notes puts the notes into the prompt; either one answers the
    last question again, so that you see the difference. /reset forgets the
    conversation, Ctrl+C stops an answer, Ctrl+D ends.

    From a pipe, each line is a question or a command:
    dlm-trl chat runs/notes < questions.txt

    The prompt is the one that training and the report use: the document's
    system prompt and the base's chat template. The model was trained on single
    questions, so it answers best after /reset.

    Exit codes: 0 answered, 1 failed or a question was too long, 2 wrong usage.
    """
    if json_ and question is None and sys.stdin.isatty():
        raise UsageError("--json prints the answers to --question, or to questions from a pipe.", "Add --question.")
    if question is not None and not question.strip():
        raise UsageError("--question is empty.", "Leave it out to chat.")
    silence_libraries()
    # stdout is for answers: DeepSpeed, which transformers imports to convert a model, logs there.
    with console(stderr=True).status(f"loading {path} …"), redirect_stdout(sys.stderr):
        from dlm_trl.chat.loop import answer_once, chat_at_terminal, chat_by_lines
        from dlm_trl.chat.opening import open_model
        from dlm_trl.chat.session import Session

        opened = open_model(path, notes, adapter_name)
    session = Session(opened, max_new_tokens, temperature, seed)
    for remark in opened.remarks:
        say(remark, err=True)
    if question is not None:
        answer_once(session, question.strip(), json_)
    elif sys.stdin.isatty():
        say(opened.about, err=True)
        chat_at_terminal(session)
    elif not chat_by_lines(session, sys.stdin, json_):
        raise typer.Exit(1)
