"""`dlm-trl synth …`: question/answer pairs from prose. Each command is a thin function around `dlm_trl.synth`.

Results go to stdout, warnings and progress to stderr; under `accelerate launch` only the first process prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dlm_trl.cli import synth_preference, synth_staged, synth_views
from dlm_trl.cli.options import (
    BATCH,
    BUDGET_TOKENS,
    CONCURRENCY,
    CONTEXT,
    DRY_RUN,
    FILES,
    FRESH,
    JSON,
    JUDGE,
    MAX_COST,
    MAX_NEW_TOKENS,
    PRICE,
    QUANTIZATION,
    TEMP,
    TOP_P,
)
from dlm_trl.cli.shared import ask_teacher, documents, misuse_exits_with_2, read_prices
from dlm_trl.models.ranks import is_main

app = typer.Typer(help="Synthesise question/answer pairs from a document's prose; review, apply or revert them.")


@app.callback()
def _exit_other_processes(context: typer.Context) -> None:
    """Under `accelerate launch`, only the commands that ask a teacher use more than the first process."""
    if context.invoked_subcommand not in ("instructions", "views", "preference") and not is_main():
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
    max_new_tokens: MAX_NEW_TOKENS = 512,
    temp: TEMP = 0.0,
    top_p: TOP_P = None,
    seed: Annotated[int | None, typer.Option(help="Seed for sampling; no effect at temperature 0.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write accepted pairs into the file right away.")] = False,
    dry_run: DRY_RUN = False,
    fresh: FRESH = False,
    concurrency: CONCURRENCY = 16,
    batch: BATCH = False,
    quantization: QUANTIZATION = None,
    context: CONTEXT = None,
    max_cost: MAX_COST = None,
    price: PRICE = None,
    budget_tokens: BUDGET_TOKENS = None,
    judge: JUDGE = None,
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
    json_: JSON = False,
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
        seed=seed, fresh=fresh, concurrency=concurrency, batch=batch, quantization=quantization, max_cost=max_cost,
        price=read_prices(price), budget_tokens=budget_tokens, judge=judge, min_grounding=min_grounding,
        min_novelty=min_novelty, prompt=prompt, context=context,
    )  # fmt: skip
    ask_teacher(documents(files), settings, apply, dry_run, json_)


app.command("list")(synth_staged.list_)
app.command()(synth_staged.coverage)
app.command("show")(synth_staged.show_)
app.command()(synth_staged.apply)
app.command()(synth_staged.drop)
app.command()(synth_staged.revert)
app.command()(synth_views.views)
app.command()(synth_preference.preference)
