"""`dlm-trl synth …`: pairs from prose, by a teacher. Each verb is a thin function around `dlm_trl.synth`.

What is printed goes to stdout, notes and progress to stderr; under `accelerate launch` only the first process prints.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dlm_trl.models.ranks import is_main
from dlm_trl.notes.errors import UsageError

app = typer.Typer(help="Write question/answer pairs from a document's prose, look at them, apply them, take them back.")

FILES = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Documents, or folders of documents.")]
FILE = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)]
_LEAST_COLUMNS = 60  # of a terminal; in fewer a table cuts off its ids and numbers
IDS = "Section ids, or their first digits, as `synth list` shows them."


def misuse_exits_with_2(verb: Callable[..., None]) -> Callable[..., None]:
    """Turns an error of usage into exit 2; all others stay exit 1."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except UsageError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None

    return run


@app.callback()
def _once(context: typer.Context) -> None:
    """Under `accelerate launch` only `instructions` has work for more than the first process."""
    if context.invoked_subcommand != "instructions" and not is_main():
        raise typer.Exit


@app.command()
@misuse_exits_with_2
def instructions(
    files: FILES,
    teacher: Annotated[
        str,
        typer.Option(
            help="self (the document's trained adapter; self#NAME for one of several), hf:<id or folder>, hf:tiny, "
            "openai:<model>, anthropic:<model>, vllm-server:<url>,<url>…#<model> (one address is enough; without "
            "a model it is the first that the server lists)."
        ),
    ] = "self",
    per_section: Annotated[
        int, typer.Option(help="Pairs to ask for about each section of prose, a text between two fences.")
    ] = 3,
    strategy: Annotated[
        Literal["extraction", "expansion", "both"],
        typer.Option(help="extraction: what the prose says; expansion: beyond it; both: half and half."),
    ] = "extraction",
    filter: Annotated[
        Literal["sway", "none", "dedup-only"],
        typer.Option(help="none: only what a file cannot hold is dropped; dedup-only: repeats too; sway: a judge too."),
    ] = "sway",
    threshold: Annotated[float, typer.Option(help="Least margin of the judge, in nats per token.")] = 0.1,
    max_pairs: Annotated[
        int | None, typer.Option(help="Stop at so many accepted pairs of a document, spread over it.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reply, in tokens.")] = 512,
    temp: Annotated[float, typer.Option(help="Sampling temperature; 0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float | None, typer.Option(help="Sample from the likeliest tokens of this mass only.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed gives other pairs, at a temperature above 0.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the accepted pairs into the file at once.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be asked, and what it may cost.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask again what the ledger has an answer to.")] = False,
    concurrency: Annotated[int, typer.Option(help="Requests in flight to a server.")] = 16,
    quantization: Annotated[
        Literal["4bit", "8bit"] | None,
        typer.Option(help="Load the weights of a local teacher and judge in 4 or 8 bit; needs the extra bnb."),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before this cost is passed, all files together; needs --price.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="What a million tokens cost, read and written.")
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Stop before so many tokens are passed, all files together.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="self, self#NAME, or hf:…; default: the document's adapter, else its base model.")
    ] = None,
    min_grounding: Annotated[
        float | None,
        typer.Option(help="How much likelier the prose has to make an extracted answer, in nats per token."),
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A Jinja template of your own, with the variables n, prose and strategy.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Everything about the run as JSON.")] = False,
) -> None:
    """Have a teacher write pairs about the prose, filter them and stage them.

    Staged pairs wait for `synth apply`. What a teacher answered is kept in a ledger, so a run that was stopped goes on
    where it was, and nothing is paid for twice. Exit 0 also when no pair was accepted, 1: a failure, of a request too,
    2: misuse.
    """
    from dlm_trl.synth.settings import SynthSettings

    if apply and dry_run:
        raise typer.BadParameter("--apply and --dry-run exclude each other.")
    settings = SynthSettings(
        teacher=teacher, per_section=per_section, strategy=strategy, filter=filter, threshold=threshold,
        max_pairs=max_pairs, max_new_tokens=max_new_tokens, temperature=temp, top_p=top_p, seed=seed, fresh=fresh,
        concurrency=concurrency, quantization=quantization, max_cost=max_cost, price=_prices(price),
        budget_tokens=budget_tokens, judge=judge, min_grounding=min_grounding, prompt=prompt,
    )  # fmt: skip
    paths = _documents(files)
    _quiet()
    if dry_run:
        from dlm_trl.synth import dry_run as dry
        from dlm_trl.synth import show

        found = [dry.estimate(path, settings) for path in paths]
        _print(show.as_json(found) if json_ else show.estimates(found))
        return
    from dlm_trl.synth import show
    from dlm_trl.synth.run import synthesize_all
    from dlm_trl.synth.watch import Watch

    done = []
    try:
        with Watch() as watch:
            for outcome in synthesize_all(paths, settings, apply, watch if is_main() else None):
                done.append(outcome)
                if not json_:
                    with watch.hidden():
                        _print(show.outcome(outcome, filter))
    except KeyboardInterrupt:
        typer.echo("Stopped. What was answered is kept: the same command goes on from here.", err=True)
        raise
    finally:  # what was done before a failure is told as well
        if json_:
            _print(show.as_json(done))
    # Of several processes the launcher ends the others as soon as one fails, and the first may still be printing.
    if is_main() and any(outcome.counts.failed for outcome in done):
        raise typer.Exit(1)


@app.command("list")
def list_(files: FILES, json_: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False) -> None:
    """Show the synthesised pairs: those that are staged, and those that are in the file."""
    from dlm_trl.notes import read
    from dlm_trl.synth import show
    from dlm_trl.synth.staging import applied, staged

    documents = {path: read(path) for path in _documents(files)}
    found = [{"path": p, "applied": applied(document), "staged": staged(document)} for p, document in documents.items()]
    if json_:
        _print(show.as_json(found))
        return
    for item in found:
        if item["applied"] or item["staged"]:
            _print(show.pairs(item["staged"], item["applied"]))
        _print(f"{item['path']}: {len(item['applied'])} applied, {len(item['staged'])} staged.")


@app.command("show")
def show_(file: FILE, id: Annotated[str, typer.Argument(help=IDS)]) -> None:
    """Show one pair with its scores, its prose and the teacher's words; or all that was written about some prose."""
    from dlm_trl.notes import read
    from dlm_trl.synth import show
    from dlm_trl.synth.staging import applied, resolve_ids, staged

    document = read(file)
    items = {item.section_id: (item, "applied") for item in applied(document)}
    items |= {item.section_id: (item, "staged") for item in staged(document)}
    prose = [section.section_id for section in document.sections if section.kind == "prose"]
    (found,) = resolve_ids([id], [*items, *prose])
    _print(show.one_pair(document, *items[found]) if found in items else show.replies(document, found))


@app.command()
def apply(file: FILE, ids: Annotated[list[str] | None, typer.Argument(metavar="[IDS]…", help=IDS)] = None) -> None:
    """Write staged pairs into the file: exactly what was staged, all or these. No teacher is asked.

    What the file was before is in FILE.bak.
    """
    from dlm_trl.synth import apply as applying

    done = applying.apply(file, ids or None)
    held = f"; {len(done.present)} were in it already" if done.present else ""
    _print(f"Applied {done.count} pairs to {file}{held}.")


@app.command()
def drop(file: FILE, ids: Annotated[list[str], typer.Argument(metavar="IDS…", help=IDS)]) -> None:
    """Take staged pairs out of staging; the file stays as it is.

    The ledger keeps what the teacher wrote, so the `instructions` that staged them would stage them again, free.
    """
    from dlm_trl.notes import read
    from dlm_trl.synth import staging

    document = read(file)
    known = [item.section_id for item in staging.staged(document)]
    _print(f"Dropped {staging.drop(document, staging.resolve_ids(ids, known))} staged pairs.")


@app.command()
def revert(
    files: FILES,
    teacher: Annotated[str | None, typer.Option(metavar="REF", help="Only the pairs of this teacher.")] = None,
    id: Annotated[list[str] | None, typer.Option(help="Only this pair; can be given several times.")] = None,
) -> None:
    """Take synthesised pairs out of the file again, and nothing else."""
    from dlm_trl.synth import apply as applying

    paths = _documents(files)
    if id and len(paths) > 1:
        raise typer.BadParameter("--id goes with one document.")
    for path in paths:
        _print(f"Removed {applying.revert(path, id or None, teacher).count} synthesised pairs from {path}.")


def _quiet() -> None:
    """Silences what libraries say while they load weights, for a user can do nothing about it."""
    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _documents(files: list[Path]) -> list[Path]:
    """The files, and the documents in the folders, each once."""
    paths: dict[Path, None] = {}
    for file in files:
        if not file.exists():
            raise typer.BadParameter(f"There is no file or folder {str(file)!r}.")
        inside = sorted(path for path in file.rglob("*.dlm") if path.is_file()) if file.is_dir() else [file]
        if not inside:
            raise typer.BadParameter(f"The folder {str(file)!r} holds no .dlm file.")
        paths |= dict.fromkeys(inside)
    return list(paths)


def _prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            "--price is IN,OUT, two numbers: what a million tokens cost, read and written."
        ) from None
    return read, written


def _print(shown: Any) -> None:
    from rich.console import Console, Group
    from rich.table import Table

    from dlm_trl.synth.show import as_lines

    if not is_main():
        return
    # Half a surrogate pair, in a teacher's words or a file's name, has no bytes; JSON reads its escape.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if isinstance(shown, str):
        typer.echo(shown)
        return
    console = Console(highlight=False, markup=False, emoji=False)
    for part in shown.renderables if isinstance(shown, Group) else [shown]:
        if isinstance(part, Table) and not (console.is_terminal and console.width >= _LEAST_COLUMNS):
            typer.echo(as_lines(part))
        else:
            console.print(part, soft_wrap=not isinstance(part, Table))  # a command can be copied when it is one line
