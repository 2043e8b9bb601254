"""`dlm-trl merge · quantize · verify · serve-check`: from adapter to served model, thin functions around `export`."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from dlm_trl.cli.synth import misuse_exits_with_2

FOLDER = {"exists": True, "file_okay": False, "readable": True}


@misuse_exits_with_2
def merge(
    adapter_dir: Annotated[Path, typer.Argument(metavar="ADAPTER_DIR", help="What training left.", **FOLDER)],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="A new folder, or an earlier result.")],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead of the base that the adapter records.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Of each file; also what the merge needs as memory.")] = "4GB",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Instead of the base's own.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="ID", help="Upload the result to this repository of the Hub; private if new.")
    ] = None,
) -> None:
    """Merge an adapter into its base: weights that need no PEFT, on a CPU, with the memory of one file of them.

    LoRA (also rank-stabilised, DoRA) and AdaLoRA, on linear layers, Conv1D and embeddings. Always into the 16-bit base,
    also where training had it in 4 bit. Then: dlm-trl verify ADAPTER_DIR OUT_DIR. Exit 0: merged, 1: a failure, 2:
    misuse.
    """
    _quiet()
    from dlm_trl.export import hub
    from dlm_trl.export.merge import merge as write

    if push_to_hub:
        hub.check_hub(push_to_hub)
    write(adapter_dir, out_dir, base, shard_size, dtype, progress=True)
    typer.echo(f"merged: {out_dir}")
    if push_to_hub:
        typer.echo(hub.push_to_hub(out_dir, push_to_hub))


@misuse_exits_with_2
def quantize(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A merged model.", **FOLDER)],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="A new folder, or an earlier result.")],
    calibration: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="notes.dlm|rows.jsonl",
            help="What the model is asked about: the document, or rows with messages, prompt and completion, or text.",
        ),
    ],
    group_size: Annotated[
        int | None, typer.Option(help="Weights that share a scale: 128, 64 or 32; unset: the largest that divides it.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Blocks of 512 tokens to look at, at most.")] = 128,
    seed: Annotated[int, typer.Option(help="Of which rows are looked at and which are held out.")] = 0,
) -> None:
    """Quantise a model to 4 bits by AWQ, as vLLM loads it. Needs the extra quant.

    A part of the rows, and of the general text that is added to them, is held out for the check:
    dlm-trl verify MODEL_DIR OUT_DIR. Exit 0: quantised, 1: a failure, 2: misuse.
    """
    _quiet()
    from dlm_trl.export import awq

    awq.quantize(model_dir, out_dir, calibration, group_size, samples, seed, progress=True)
    typer.echo(f"quantised: {out_dir}")


@misuse_exits_with_2
def verify(
    before: Annotated[Path, typer.Argument(metavar="BEFORE_DIR", help="The adapter, or the merged model.", **FOLDER)],
    after: Annotated[Path, typer.Argument(metavar="AFTER_DIR", help="What was made of it.", **FOLDER)],
    notes: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The document, where it lies elsewhere now.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Questions whose answers are compared word by word.")] = 16,
    json_: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Check a step: is the model after it still the one before it?

    Both are loaded from disk in processes of their own and asked the same. The numbers go into AFTER_DIR/lineage.json
    and its card. Exit 0: all limits kept, 1: one was not, or a failure, 2: misuse.
    """
    _quiet()
    from dlm_trl.export.verify import verify as check

    found = check(before, after, notes, prompts)
    if json_:
        typer.echo(json.dumps(asdict(found) | {"passed": found.passed}, ensure_ascii=False))
    else:
        typer.echo(str(found))
    for one in found.failed:
        typer.echo(f"{found.step} failed its check: {one.name}: {one.failing}.", err=True)
    if not found.passed:
        raise typer.Exit(1)


@misuse_exits_with_2
def serve_check(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of an OpenAI-compatible server: http://localhost:8000/v1")],
    folder: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="What it serves, verified before.", **FOLDER)],
    model: Annotated[str | None, typer.Option(help="The name it is served under; default: the first listed.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Ask a running server what the model was asked when it was verified, and compare answers and stop reasons.

    The key is read from OPENAI_API_KEY, where the server wants one. Exit 0: as expected, 1: not so, or a failure, 2:
    misuse.
    """
    from dlm_trl.export.checks import table
    from dlm_trl.export.serve_check import serve_check as ask

    found = ask(url, folder, model)
    if json_:
        typer.echo(json.dumps(asdict(found) | {"passed": found.passed}, ensure_ascii=False))
    else:
        typer.echo(table(found.checks))
        for question, expected, said in found.differing:
            typer.echo(f"\n{question}\n  expected: {expected}\n  served:   {said}")
    if not found.passed:
        raise typer.Exit(1)


def _quiet() -> None:
    """Warnings about the loading of weights that a user can do nothing about."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
