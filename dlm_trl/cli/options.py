"""Arguments and options that several verbs have, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

FILES = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Documents, or folders of documents.")]
FILE = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)]
DOCUMENT = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE", help="The .dlm document.")
]

# Of the verbs that ask a teacher.
MAX_NEW_TOKENS = Annotated[int, typer.Option(help="Maximum length of a reply, in tokens.")]
TEMP = Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy decoding.")]
TOP_P = Annotated[
    float | None,
    typer.Option(help="Nucleus sampling: sample from the likeliest tokens with this total probability."),
]
DRY_RUN = Annotated[
    bool, typer.Option("--dry-run", help="Show the number of requests and their maximum cost, and exit.")
]
FRESH = Annotated[bool, typer.Option("--fresh", help="Send requests again that the ledger already has replies to.")]
CONCURRENCY = Annotated[int, typer.Option(help="Maximum concurrent requests per server.")]
BATCH = Annotated[
    bool,
    typer.Option(
        "--batch",
        help="Submit the requests of openai:… or anthropic:… as batches: half the price, answered within 24 hours. The "
        "command waits for them. Stop it whenever you like; the same command goes on waiting and collects the replies.",
    ),
]
QUANTIZATION = Annotated[
    Literal["4bit", "8bit"] | None,
    typer.Option(help="Load a local teacher and judge in 4 or 8 bit; requires the extra bnb."),
]
CONTEXT = Annotated[
    int | None,
    typer.Option(help="Tokens that a prompt and its reply may have together, for a server that doesn't report it."),
]
MAX_COST = Annotated[
    float | None, typer.Option(help="Stop before the total cost of all files exceeds this; requires --price.")
]
PRICE = Annotated[
    str | None,
    typer.Option(metavar="IN,OUT", help="Price of a million prompt tokens, and of a million new tokens."),
]
BUDGET_TOKENS = Annotated[int | None, typer.Option(help="Stop before the total tokens of all files exceed this.")]
JUDGE = Annotated[
    str | None,
    typer.Option(help="self, self#NAME or hf:…; default: the document's adapter if trained, else its base model."),
]
JSON = Annotated[bool, typer.Option("--json", help="Print the full outcome as JSON.")]
