"""`dlm-trl improve FILE`: rounds of training and asking. The work is in `dlm_trl.improve.loop`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from dlm_trl.cli.options import DOCUMENT, PRICE
from dlm_trl.cli.shared import misuse_exits_with_2, read_prices
from dlm_trl.notes.escape import printable_json
from dlm_trl.notes.terminal import say

if TYPE_CHECKING:
    from dlm_trl.synth.view_kinds import ViewKind


@misuse_exits_with_2
def improve(
    file: DOCUMENT,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…",
            help="Settings of the training, such as config=recipes/notes.yaml. They need questions to measure by.",
        ),
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="Who writes, as for `synth views`; self is the adapter of the round before.")
    ] = "self",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds after the first training, at most.")] = 3,
    views: Annotated[int, typer.Option(min=1, help="Views that a round adds for each missed sentence.")] = 6,
    kinds: Annotated[
        str, typer.Option(help="Kinds of views: question, reverse, rewrite, implication, summary.")
    ] = "question,reverse,rewrite",
    filter: Annotated[
        Literal["sway", "none", "dedup-only"], typer.Option(help="What drops a view, as for `synth views`.")
    ] = "sway",
    judge: Annotated[str | None, typer.Option(help="self, self#NAME or hf:…, as for `synth views`.")] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Stop asking before the tokens of all rounds exceed this.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Stop asking before the cost of all rounds exceeds this; requires --price.")
    ] = None,
    price: PRICE = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the rounds; default: runs/improve-NAME. The same one again resumes.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the rounds as JSON.")] = False,
) -> None:
    """Train, measure, have a teacher write about what is missed, and train again, as long as the answers get better.

    Each round asks about the sentences whose questions were missed, adds the accepted pairs to FILE and the prose views
    to its store, and trains a new adapter on everything. A round that doesn't raise the F1 on untrained questions is
    taken back and ends the loop. Afterwards, `synth revert FILE` removes all synthesised pairs.
    """
    from dlm_trl.improve.loop import improve as run
    from dlm_trl.improve.rounds import table
    from dlm_trl.synth.settings import SynthSettings

    chosen = cast("tuple[ViewKind, ...]", tuple(kind.strip() for kind in kinds.split(",")))  # the settings check them
    asking = SynthSettings(
        teacher=teacher, views=views, kinds=chosen, filter=filter, judge=judge,
        budget_tokens=budget_tokens, max_cost=max_cost, price=read_prices(price),
    )  # fmt: skip
    folder = out or Path("runs") / f"improve-{file.stem}"
    done = run(file, asking, settings or [], rounds, folder, tell=lambda line: say(line, err=True))
    if json_:
        from dataclasses import asdict

        say(printable_json([asdict(each) for each in done]))
    else:
        say(table(done))
