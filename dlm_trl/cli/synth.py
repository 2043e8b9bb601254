"""`dlm-trl synth …`: question/answer pairs from prose. Each command is a thin function around `dlm_trl.synth`.

Results go to stdout, warnings and progress to stderr; under `accelerate launch` only the first process prints.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dlm_trl.models.ranks import is_main
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.terminal import console, say

if TYPE_CHECKING:
    from dlm_trl.notes import Document
    from dlm_trl.synth.settings import SynthSettings
    from dlm_trl.synth.staging import Staged

app = typer.Typer(help="Synthesise question/answer pairs from a document's prose; review, apply or revert them.")

FILES = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Documents, or folders of documents.")]
FILE = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)]
_MIN_COLUMNS = 60  # in a narrower terminal, tables truncate ids and numbers
IDS = "Section ids or id prefixes, as shown by `synth list`."


def misuse_exits_with_2(command: Callable[..., None]) -> Callable[..., None]:
    """Exit with 2 for a UsageError; other errors exit with 1."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UsageError as error:
            say(error, err=True)
            raise typer.Exit(2) from None

    return run


@app.callback()
def _exit_other_processes(context: typer.Context) -> None:
    """Under `accelerate launch`, only the commands that ask a teacher use more than the first process."""
    if context.invoked_subcommand not in ("instructions", "views") and not is_main():
        raise typer.Exit


@app.command()
@misuse_exits_with_2
def instructions(
    files: FILES,
    teacher: Annotated[
        str,
        typer.Option(
            help="self (the document's trained adapter; self#NAME for one of several), hf:<id or folder>, hf:tiny, "
            "openai:<model>, anthropic:<model>, or vllm-server:<url>,<url>…#<model> (one or more servers; without "
            "#<model>, the first model they list)."
        ),
    ] = "self",
    per_section: Annotated[
        int | None,
        typer.Option(help="Pairs to request per prose section; default: 3, or one per sentence with --ask sentences."),
    ] = None,
    strategy: Annotated[
        Literal["extraction", "expansion", "both"],
        typer.Option(
            help="extraction: questions the prose answers; expansion: questions beyond it; both: half of each."
        ),
    ] = "extraction",
    ask: Annotated[
        Literal["list", "sentences"] | None,
        typer.Option(
            help="list: ask for a JSON list of pairs about each section; sentences: ask for a question about each "
            "sentence, which answers it. Default: sentences for local teachers of less than about 1 B parameters."
        ),
    ] = None,
    uncovered: Annotated[
        bool,
        typer.Option("--uncovered", help="Ask only about sentences that no pair asks about yet, one at a time."),
    ] = False,
    filter: Annotated[
        Literal["sway", "none", "dedup-only"],
        typer.Option(
            help="none: drop only pairs that can't be written to a file; dedup-only: also duplicates and leaks of "
            "validation rows; sway: also pairs the judge rejects."
        ),
    ] = "sway",
    threshold: Annotated[float, typer.Option(help="Minimum margin of the judge, in nats per token.")] = 0.1,
    max_pairs: Annotated[
        int | None, typer.Option(help="Stop after this many accepted pairs per document, spread over its sections.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of a reply, in tokens.")] = 512,
    temp: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy decoding.")] = 0.0,
    top_p: Annotated[
        float | None,
        typer.Option(help="Nucleus sampling: sample from the likeliest tokens with this total probability."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed for sampling; no effect at temperature 0.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write accepted pairs into the file right away.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the number of requests and their maximum cost, and exit.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Send requests again that the ledger already has replies to.")
    ] = False,
    concurrency: Annotated[int, typer.Option(help="Maximum concurrent requests per server.")] = 16,
    quantization: Annotated[
        Literal["4bit", "8bit"] | None,
        typer.Option(help="Load a local teacher and judge in 4 or 8 bit; requires the extra bnb."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Tokens that a prompt and its reply may have together, for a server that doesn't report it."),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before the total cost of all files exceeds this; requires --price.")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="IN,OUT", help="Price of a million prompt tokens, and of a million new tokens."),
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Stop before the total tokens of all files exceed this.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="self, self#NAME or hf:…; default: the document's adapter if trained, else its base model."),
    ] = None,
    min_grounding: Annotated[
        float | None,
        typer.Option(help="Minimum gain in an extracted answer's log-probability from the prose, in nats per token."),
    ] = None,
    min_novelty: Annotated[
        float | None,
        typer.Option(
            help="Keep only what the judge can't say without the prose: how much likelier \"I don't know.\" has to be "
            "than the answer, in nats per token."
        ),
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Your own prompt: a Jinja template with the variables n, prose and strategy.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the full outcome as JSON.")] = False,
) -> None:
    """Ask a teacher for pairs about the prose, filter them and stage them for review.

    Write staged pairs into the file with `synth apply`. Replies are kept in a ledger: rerun the same command to resume
    a stopped run, and nothing is paid for twice. Exit codes: 0 (even if no pair was accepted), 1 (an error, or a
    request failed), 2 (wrong usage).
    """
    from dlm_trl.synth.settings import SynthSettings

    if apply and dry_run:
        raise typer.BadParameter("--apply and --dry-run can't be combined.")
    settings = SynthSettings(
        teacher=teacher, per_section=per_section, strategy=strategy, ask=ask, uncovered=uncovered, filter=filter,
        threshold=threshold, max_pairs=max_pairs, max_new_tokens=max_new_tokens, temperature=temp, top_p=top_p,
        seed=seed, fresh=fresh, concurrency=concurrency, quantization=quantization, max_cost=max_cost,
        price=read_prices(price), budget_tokens=budget_tokens, judge=judge, min_grounding=min_grounding,
        min_novelty=min_novelty, prompt=prompt, context=context,
    )  # fmt: skip
    ask_teacher(documents(files), settings, apply, dry_run, json_)


def ask_teacher(paths: list[Path], settings: SynthSettings, apply: bool, dry_run: bool, json_: bool) -> None:
    """Run or estimate these settings for each document, and print the outcomes. Exits with 1 if a request failed."""
    silence_libraries()
    from dlm_trl.synth import show

    if dry_run:
        from dlm_trl.synth.dry_run import estimate

        estimates = [estimate(path, settings) for path in paths]
        show_result(show.as_json(estimates) if json_ else show.estimates(estimates))
        return
    from dlm_trl.synth.run import synthesize_all
    from dlm_trl.synth.watch import Watch

    outcomes = []
    try:
        with Watch() as watch:
            for outcome in synthesize_all(paths, settings, apply, watch if is_main() else None):
                outcomes.append(outcome)
                if not json_:
                    with watch.hidden():
                        show_result(show.outcome(outcome, settings.filter))
    except KeyboardInterrupt:
        say("Stopped. Finished requests are kept: rerun the same command to resume.", err=True)
        raise
    finally:  # after an error, too, print the documents that were finished
        if json_:
            show_result(show.as_json(outcomes))
    # Only in the first process: the launcher kills the others when one fails, and the first may still be printing.
    if is_main() and any(outcome.counts.failed for outcome in outcomes):
        raise typer.Exit(1)


@app.command("list")
def list_(
    files: FILES,
    explain: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Explain one pair instead: what each score compares, its limit, the checks."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON, with the whole prose of each pair.")] = False,
) -> None:
    """List the synthesised pairs, staged and in the file, with their answers and the prose that they come from."""
    from dlm_trl.notes import read
    from dlm_trl.synth import listing, show

    paths = documents(files)
    if explain is not None:
        if len(paths) > 1 or json_:
            raise typer.BadParameter("--explain works with one document only, and without --json.")
        from dlm_trl.synth.explain import explain as explained

        document = read(paths[0])
        items, (full_id,) = _pairs(document, [explain])
        show_result(explained(document, *items[full_id]))
        return
    rows_of = {path: listing.listed(read(path)) for path in paths}
    if json_:
        states = ("applied", "staged")
        show_result(
            show.as_json(
                [
                    {"path": path, **{state: listing.as_plain(rows, state) for state in states}}
                    for path, rows in rows_of.items()
                ]
            )
        )
        return
    out = console()
    for path, rows in rows_of.items():
        if rows:
            show_result(listing.blocks(rows, out.width) if out.is_terminal else listing.table(rows))
        in_file = sum(row.state == "applied" for row in rows)
        show_result(f"{path}: {in_file} applied, {len(rows) - in_file} staged.")


@app.command()
def coverage(files: FILES, json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the sentences that no pair asks about, the views of each, and the synthesised pairs whose sentence is gone.

    Pairs count whether they are in the file or staged. Nothing is changed. To have a teacher ask about the sentences:
    `dlm-trl synth instructions FILE --uncovered`.
    """
    from dlm_trl.notes import read
    from dlm_trl.rows.views import live_views, read_views
    from dlm_trl.synth import show
    from dlm_trl.synth.coverage import coverage
    from dlm_trl.synth.staging import staged

    found = {}
    for path in documents(files):
        document = read(path)
        found[path] = coverage(document, staged(document), live_views(document, read_views(document)))
    if json_:
        show_result(show.as_json([show.coverage_fields(path, each) for path, each in found.items()]))
        return
    for path, each in found.items():
        show_result(show.coverage(path, each))


@app.command("show")
def show_(file: FILE, id: Annotated[str, typer.Argument(help=IDS)]) -> None:
    """Show a pair with its scores, prose and the teacher's reply, or all replies about a prose section.

    `synth list FILE --explain ID` says what the scores mean.
    """
    from dlm_trl.notes import read
    from dlm_trl.synth import show

    document = read(file)
    prose = [section.section_id for section in document.sections if section.kind == "prose"]
    items, (full_id,) = _pairs(document, [id], prose)
    show_result(show.one_pair(document, *items[full_id]) if full_id in items else show.replies(document, full_id))


@app.command()
def apply(file: FILE, ids: Annotated[list[str] | None, typer.Argument(metavar="[IDS]…", help=IDS)] = None) -> None:
    """Write staged pairs into the file, exactly as they were staged: those with the given ids, or all.

    The previous version of the file is kept as FILE.bak.
    """
    from dlm_trl.synth import apply as applying

    result = applying.apply(file, ids or None)
    present = f"; {len(result.present)} were already there" if result.present else ""
    show_result(f"Applied {result.count} pairs to {file}{present}.")


@app.command()
def drop(file: FILE, ids: Annotated[list[str], typer.Argument(metavar="IDS…", help=IDS)]) -> None:
    """Remove pairs from staging; the file doesn't change.

    The ledger keeps the teacher's replies, so the `instructions` command that staged the pairs would stage them again.
    """
    from dlm_trl.notes import read
    from dlm_trl.synth import staging

    document = read(file)
    known = [item.section_id for item in staging.staged(document)]
    show_result(f"Dropped {staging.drop(document, staging.resolve_ids(ids, known))} staged pairs.")


@app.command()
def revert(
    files: FILES,
    teacher: Annotated[str | None, typer.Option(metavar="REF", help="Only pairs from this teacher.")] = None,
    id: Annotated[list[str] | None, typer.Option(help="Only this pair; can be repeated.")] = None,
) -> None:
    """Remove synthesised pairs from the file, and nothing else."""
    from dlm_trl.synth import apply as applying

    paths = documents(files)
    if id and len(paths) > 1:
        raise typer.BadParameter("--id works with one document only.")
    for path in paths:
        show_result(f"Removed {applying.revert(path, id or None, teacher).count} synthesised pairs from {path}.")


def _pairs(
    document: Document, ids: Sequence[str], others: Sequence[str] = ()
) -> tuple[dict[str, tuple[Staged, str]], list[str]]:
    """The document's synthesised pairs with their state, by id; and these ids in full, of pairs or others."""
    from dlm_trl.synth.staging import applied, resolve_ids, staged

    items = {item.section_id: (item, "applied") for item in applied(document)}
    items |= {item.section_id: (item, "staged") for item in staged(document)}
    return items, resolve_ids(ids, [*items, *others])


def silence_libraries() -> None:
    """Silence warnings that libraries print while they load weights; the user can't act on them."""
    if not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def documents(files: list[Path]) -> list[Path]:
    """The files, and the documents in the folders, without repeats."""
    paths: dict[Path, None] = {}
    for file in files:
        if not file.exists():
            raise typer.BadParameter(f"No such file or folder: {str(file)!r}.")
        inside = sorted(path for path in file.rglob("*.dlm") if path.is_file()) if file.is_dir() else [file]
        if not inside:
            raise typer.BadParameter(f"No .dlm files in the folder {str(file)!r}.")
        paths |= dict.fromkeys(inside)
    return list(paths)


def read_prices(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        prompt, completion = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            "--price takes two numbers, IN,OUT: the price of a million prompt tokens, and of a million new tokens."
        ) from None
    return prompt, completion


def show_result(shown: Any) -> None:
    """Print a text, a table, or a group of them: tables as lines where there is no room for them."""
    from rich.console import Group
    from rich.table import Table

    from dlm_trl.synth.show import as_lines

    if not is_main():
        return
    if isinstance(shown, str):
        say(shown)
        return
    out = console()
    for part in shown.renderables if isinstance(shown, Group) else [shown]:
        if isinstance(part, Table) and not (out.is_terminal and out.width >= _MIN_COLUMNS):
            say(as_lines(part))
        else:
            out.print(part, soft_wrap=not isinstance(part, Table))  # unwrapped, so that commands can be copied
