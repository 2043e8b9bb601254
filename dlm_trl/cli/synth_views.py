"""`dlm-trl synth views`: several views of each fact in the prose: questions, rewrites, implications, summaries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

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
from dlm_trl.cli.shared import ask_teacher, documents, misuse_exits_with_2, read_prices, show_result
from dlm_trl.models.ranks import is_main

if TYPE_CHECKING:
    from dlm_trl.synth.view_kinds import ViewKind


@misuse_exits_with_2
def views(
    files: FILES,
    teacher: Annotated[
        str,
        typer.Option(
            help="Who writes the views, as for `synth instructions`: self, hf:<id, folder or GGUF file>, "
            "openai:<model>, anthropic:<model>, or vllm-server:<url>. A model of at least 1 B parameters; smaller ones "
            "write little that is right."
        ),
    ] = "self",
    views: Annotated[
        int, typer.Option(help="Views of each sentence, the existing ones included: a rerun asks for what is missing.")
    ] = 10,
    kinds: Annotated[
        str,
        typer.Option(
            help="question (in several wordings), reverse (the answer names what the sentence is about), rewrite (the "
            "sentence in other words), implication (what follows from it), summary (of its section). Of ten views, "
            "3, 2, 3, 1 and 1."
        ),
    ] = "question,reverse,rewrite,implication,summary",
    filter: Annotated[
        Literal["sway", "none", "dedup-only"],
        typer.Option(
            help="none: drop only pairs that can't be written to a file; dedup-only: also what can't be right by its "
            "words, and duplicates; sway: also what the judge rejects."
        ),
    ] = "sway",
    judge: JUDGE = None,
    temp: TEMP = 0.0,
    top_p: TOP_P = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed for sampling; another one gives other views. No effect at temperature 0.")
    ] = None,
    max_new_tokens: MAX_NEW_TOKENS = 512,
    dry_run: DRY_RUN = False,
    fresh: FRESH = False,
    concurrency: CONCURRENCY = 16,
    batch: BATCH = False,
    quantization: QUANTIZATION = None,
    context: CONTEXT = None,
    max_cost: MAX_COST = None,
    price: PRICE = None,
    budget_tokens: BUDGET_TOKENS = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Ask nothing; list the prose views, with the line of their sentence.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Ask nothing; remove the prose views. Pairs: `synth drop`, `synth revert`.")
    ] = False,
    json_: JSON = False,
) -> None:
    """Ask a teacher for several views of each fact: a model learns a fact that it reads in many wordings.

    Questions are pairs: they are staged for `synth list`, `synth apply` and `synth revert`. Rewrites, implications and
    summaries are training rows kept beside the document, never in it, and are trained with its prose (setting `views`
    of the recipe). `synth coverage` shows the views of each sentence. Exit codes as of `synth instructions`.
    """
    from dlm_trl.synth.settings import SynthSettings

    if list_ and remove:
        raise typer.BadParameter("--list and --remove can't be combined.")
    if list_ or remove:
        if is_main():
            for path in documents(files):
                _removed(path) if remove else _listed(path, json_)
        return
    chosen = cast("tuple[ViewKind, ...]", tuple(kind.strip() for kind in kinds.split(",")))  # the settings check them
    settings = SynthSettings(
        teacher=teacher, views=views, kinds=chosen, filter=filter,
        judge=judge, temperature=temp, top_p=top_p, seed=seed, max_new_tokens=max_new_tokens, fresh=fresh,
        concurrency=concurrency, batch=batch, quantization=quantization, context=context, max_cost=max_cost,
        price=read_prices(price), budget_tokens=budget_tokens,
    )  # fmt: skip
    ask_teacher(documents(files), settings, False, dry_run, json_)


def _listed(path: Path, json_: bool) -> None:
    from dlm_trl.notes import read
    from dlm_trl.rows.views import live_views, read_views
    from dlm_trl.synth import show

    document = read(path)
    stored = read_views(document)
    live = sorted(live_views(document, stored), key=lambda view: view.line)
    if json_:
        show_result(show.as_json([view.model_dump() for view in live]))
        return
    show_result(show.prose_views(path, live, len(stored) - len(live)))


def _removed(path: Path) -> None:
    from dlm_trl.notes import read
    from dlm_trl.rows.views import remove_views
    from dlm_trl.synth.ledger import Ledger

    document = read(path)
    Ledger(document)  # refuses the views of another document with the same dlm_id
    show_result(f"Removed {remove_views(document)} prose views of {path}.")
