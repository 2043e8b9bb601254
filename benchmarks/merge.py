"""Time and memory of a merge, against PEFT's: load the model, merge_and_unload, save_pretrained.

    python benchmarks/merge.py                     # a few minutes, 6 GB of free disk
    python benchmarks/merge.py --layers 32 --shard-size 2GB

Writes a Llama with random weights in bfloat16 and a rank-16 adapter on all its linear layers to a temporary folder,
once. Each merge runs in its own process and writes tokenizer and configuration too. The clock starts after the imports,
which both need. It stops for ours when the files are on disk (fsync) and hashed, for PEFT's when its files are in the
page cache. The two alternate in going first, the disk is idle when the clock starts, the base is in the page cache for
both, and each figure is the best of its rounds. Memory is the process's ru_maxrss: interpreter, libraries and mapped
file pages included.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

MERGERS = ("PEFT", "dlm-trl merge")
WRITER = "the model"


def main() -> None:
    options = parse()
    if options.worker:
        print(json.dumps(work(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        # Also in its own process: ru_maxrss of a subprocess starts at its parent's memory.
        largest = int(run(WRITER, Path(folder), options)["largest"])
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in MERGERS}
        for turn in range(options.rounds):
            for name in MERGERS[:: 1 if turn % 2 == 0 else -1]:
                runs[name].append(run(name, Path(folder), options))
        report(runs, Path(folder, "base"), largest, options.shard_size)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--shard-size", default="500MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="create the temporary folder here")
    parser.add_argument("--worker", choices=[*MERGERS, WRITER], help=argparse.SUPPRESS)
    return parser.parse_args()


def write_model(base: Path, adapter: Path, options: argparse.Namespace) -> dict[str, float]:
    """Write base and adapter; returns {"largest": bytes of the largest tensor}."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from dlm_trl import tiny

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 256,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    model.save_pretrained(base, max_shard_size=options.shard_size)
    AutoTokenizer.from_pretrained(tiny.path()).save_pretrained(base)
    torch.set_default_dtype(torch.float32)
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=16, lora_alpha=32)
    adapted = get_peft_model(model, settings)
    settings.base_model_name_or_path = str(base)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(adapter)
    return {"largest": max(parameter.nbytes for parameter in model.parameters())}


def run(name: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run this file in a subprocess as one of the mergers or the writer; returns its figures."""
    os.sync()
    sizes = [f"--{key}={getattr(options, key)}" for key in ("hidden", "layers", "vocabulary")]
    command = [sys.executable, __file__, *sizes, "--shard-size", options.shard_size]
    command += ["--worker", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    shutil.rmtree(folder / "merged", ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(options: argparse.Namespace) -> dict[str, float]:
    """What the subprocess does; `seconds` and `imports` in seconds, `peak` in bytes."""
    base, adapter, out = (Path(options.folder, name) for name in ("base", "adapter", "merged"))
    if options.worker == WRITER:
        return write_model(base, adapter, options)
    started = time.perf_counter()
    if options.worker == "PEFT":
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        imported = time.perf_counter()
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
        model.merge_and_unload(safe_merge=True).save_pretrained(out, max_shard_size=options.shard_size)
        AutoTokenizer.from_pretrained(base).save_pretrained(out)
    else:
        from dlm_trl.export.merge import merge

        imported = time.perf_counter()
        merge(adapter, out, shard_size=options.shard_size)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": ended - imported, "imports": imported - started, "peak": peak}


def report(runs: dict[str, list[dict[str, float]]], base: Path, largest: int, shard_size: str) -> None:
    from importlib.metadata import version

    shard = max(file.stat().st_size for file in base.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "safetensors"))
    print(f"{size / 1e9:.2f} GB in bfloat16, shards of {shard_size}; {versions}")
    print(
        "| | seconds, each round | best | ratio | imports | peak memory | ratio |\n|---|---|---:|---:|---:|---:|---:|"
    )
    best = {name: {key: min(r[key] for r in rounds) for key in ("seconds", "imports")} for name, rounds in runs.items()}
    peak = {name: max(r["peak"] for r in rounds) for name, rounds in runs.items()}
    for name, rounds in runs.items():
        seconds = ", ".join(f"{r['seconds']:.1f}" for r in rounds)
        print(
            f"| {name} | {seconds} | {best[name]['seconds']:.1f} "
            f"| {best['PEFT']['seconds'] / best[name]['seconds']:.2f} | {best[name]['imports']:.1f} "
            f"| {peak[name] / 2**30:.2f} GiB | {peak['PEFT'] / peak[name]:.2f} |"
        )
    limit = shard + largest + 2**30
    print(f"limit: one shard + the largest tensor + 1 GiB = {limit / 2**30:.2f} GiB")
    assert peak[MERGERS[1]] <= limit, "the merge takes more memory than the limit"


if __name__ == "__main__":
    main()
