"""`dlm-trl merge · quantize · verify · serve-check`: the commands of `dlm_trl.export`."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dlm_trl.cli.shared import misuse_exits_with_2
from dlm_trl.notes.escape import printable_json
from dlm_trl.notes.terminal import say

FOLDER: dict[str, Any] = {"exists": True, "file_okay": False, "readable": True}


@misuse_exits_with_2
def merge(
    adapter_dir: Annotated[
        Path, typer.Argument(metavar="ADAPTER_DIR", help="The output folder of a training run.", **FOLDER)
    ],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="A new folder, or an earlier result to replace.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Base model to merge into. Default: the one the adapter records."),
    ] = None,
    shard_size: Annotated[
        str, typer.Option(help="Maximum size of a weight file. Merging needs about as much memory.")
    ] = "4GB",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Precision of the merged weights. Default: the base's."),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Upload the result to this private Hub repository, unchecked. dlm-trl push uploads it after verify.",
        ),
    ] = None,
) -> None:
    """Merge an adapter into its base model, so that it loads without PEFT.

    Needs no GPU. Works for LoRA, rsLoRA, DoRA and AdaLoRA on linear layers,
    Conv1D and embeddings. Always merges into the 16-bit base, even if you
    trained on a 4-bit one.

    Check the result with dlm-trl verify ADAPTER_DIR OUT_DIR.

    Exit codes: 0 merged, 1 failed, 2 wrong usage.
    """
    silence_libraries()
    from dlm_trl.export.merge import merge as merge_adapter
    from dlm_trl.hub.folders import model_upload
    from dlm_trl.hub.upload import check_hub, push_files

    if push_to_hub:
        check_hub(push_to_hub)
    merge_adapter(adapter_dir, out_dir, base, shard_size, dtype, progress=True)
    say(f"merged: {out_dir}")
    if push_to_hub:
        say(push_files(model_upload(out_dir, push_to_hub, unverified=True), push_to_hub).url)


@misuse_exits_with_2
def quantize(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A merged model.", **FOLDER)],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="A new folder, or an earlier result to replace.")],
    calibration: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="notes.dlm|rows.jsonl",
            help="Text like what the model will see: your document, or rows with messages, prompt and completion, or "
            "text.",
        ),
    ],
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Weights that share a scale: 128, 64 or 32. 32 loses least, which matters for small models. Default: "
            "the largest that divides the model."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Maximum number of calibration blocks, of 512 tokens each.")] = 128,
    seed: Annotated[int, typer.Option(help="Decides which rows are used and which are held out.")] = 0,
) -> None:
    """Quantise a merged model to 4 bits with AWQ, for vLLM. Needs the extra `quant`.

    Some general text is added to your rows, and a part of both is held out to
    check the result with dlm-trl verify MODEL_DIR OUT_DIR.

    Exit codes: 0 quantised, 1 failed, 2 wrong usage.
    """
    silence_libraries()
    from dlm_trl.export import awq

    awq.quantize(model_dir, out_dir, calibration, group_size, samples, seed, progress=True)
    say(f"quantised: {out_dir}")


@misuse_exits_with_2
def verify(
    before: Annotated[Path, typer.Argument(metavar="BEFORE_DIR", help="The adapter, or the merged model.", **FOLDER)],
    after: Annotated[
        Path, typer.Argument(metavar="AFTER_DIR", help="The model made from it, merged or quantised.", **FOLDER)
    ],
    notes: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The document, if you moved it since training."),
    ] = None,
    prompts: Annotated[
        int, typer.Option(min=1, help="Number of questions whose answers are compared word by word.")
    ] = 16,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a merged or quantised model still behaves like the model it was made from.

    Loads both models in fresh processes and compares their outputs. The numbers
    are also saved in AFTER_DIR/lineage.json and in its model card.

    Exit codes: 0 within all limits, 1 beyond a limit or failed, 2 wrong usage.
    """
    silence_libraries()
    from dlm_trl.export.verify import verify as verify_step

    result = verify_step(before, after, notes, prompts)
    if json_:
        say(printable_json(asdict(result) | {"passed": result.passed}))
    else:
        say(result)
    for check in result.failed:
        say(f"{result.step} failed its check: {check.name}: {check.failing}.", err=True)
    if not result.passed:
        raise typer.Exit(1)


@misuse_exits_with_2
def serve_check(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="An OpenAI-compatible server, such as http://localhost:8000/v1")
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="MODEL_DIR", help="The folder it serves; run dlm-trl verify on it first.", **FOLDER),
    ],
    model: Annotated[
        str | None, typer.Option(help="Name of the model on the server. Default: the first one it lists.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a running server the questions from dlm-trl verify, and compare its answers.

    Stop reasons are compared too. If the server needs a key, set OPENAI_API_KEY.

    Exit codes: 0 as expected, 1 different or failed, 2 wrong usage.
    """
    from dlm_trl.export.checks import table
    from dlm_trl.export.serve_check import serve_check as check_server

    result = check_server(url, folder, model)
    if json_:
        say(printable_json(asdict(result) | {"passed": result.passed}))
    else:
        say(table(result.checks))
        for question, expected, served in result.differing:
            say(f"\n{question}\n  expected: {expected}\n  served:   {served}")
    for check in result.failed:
        say(f"The server failed its check: {check.name}: {check.failing}.", err=True)
    if not result.passed:
        raise typer.Exit(1)


def silence_libraries() -> None:
    """Hide warnings about loading weights that you can do nothing about."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
