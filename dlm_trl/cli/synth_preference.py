"""`dlm-trl synth preference`: two answers to each question, of which a judge that reads the prose prefers one."""

from __future__ import annotations

from typing import Annotated

import typer

from dlm_trl.cli.options import CONCURRENCY, FILES, FRESH, JSON, JUDGE, PRICE, QUANTIZATION
from dlm_trl.cli.shared import documents, misuse_exits_with_2, print_each, read_prices, silence_libraries


@misuse_exits_with_2
def preference(
    files: FILES,
    teacher: Annotated[
        str, typer.Option(help="Who answers, as for `synth instructions`: self, hf:…, openai:…, vllm-server:…, ….")
    ] = "self",
    judge: JUDGE = None,
    temp: Annotated[float, typer.Option(help="Sampling temperature of the answers.")] = 0.8,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling, as for `synth instructions`.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed for sampling; another one gives other answers.")] = None,
    min_gap: Annotated[
        float,
        typer.Option(help="How much better the judge must find the chosen answer, with the prose, in nats per token."),
    ] = 0.5,
    threshold: Annotated[
        float, typer.Option(help="Minimum margin of the chosen answer, as for `synth instructions`.")
    ] = 0.1,
    min_grounding: Annotated[
        float | None, typer.Option(help="Minimum grounding of the chosen answer, as for `synth instructions`.")
    ] = None,
    max_questions: Annotated[int | None, typer.Option(help="Ask at most this many questions of each document.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = 128,
    apply: Annotated[bool, typer.Option("--apply", help="Write the preferences into the file right away.")] = False,
    fresh: FRESH = False,
    concurrency: CONCURRENCY = 16,
    quantization: QUANTIZATION = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Send no more requests to a document than cost this; requires --price.")
    ] = None,
    price: PRICE = None,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Send no more requests to a document than these tokens allow.")
    ] = None,
    json_: JSON = False,
) -> None:
    """Have a teacher answer the document's questions twice, and stage which answer is better.

    The teacher reads the prose for one answer and not for the other; the judge reads it for both. The better answer
    must pass the checks of a synthesised pair. Review with `synth list`, `synth apply`, `synth drop` and `synth
    revert`, then train: recipes/dpo.py. Replies are kept in a ledger: rerun the same command to resume. Exit codes as
    of `synth instructions`.
    """
    from dlm_trl.synth.settings import SynthSettings

    settings = SynthSettings(
        teacher=teacher, judge=judge, temperature=temp, top_p=top_p, seed=seed, threshold=threshold,
        min_grounding=min_grounding, max_pairs=max_questions, max_new_tokens=max_new_tokens, fresh=fresh,
        concurrency=concurrency, quantization=quantization, max_cost=max_cost, price=read_prices(price),
        budget_tokens=budget_tokens,
    )  # fmt: skip
    paths = documents(files)
    silence_libraries()
    from dlm_trl.notes import read
    from dlm_trl.synth import preference_show
    from dlm_trl.synth.preference import check, prefer

    for path in paths:
        check(read(path), settings)
    print_each(
        lambda progress: (prefer(path, settings, min_gap, apply, progress=progress) for path in paths),
        preference_show.outcome,
        json_,
    )
