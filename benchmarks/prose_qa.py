"""Training on questions about prose, against the prose alone: `python benchmarks/prose_qa.py [--seeds 1 2 3]`.

Both runs use the same document, base, adapter and number of trained tokens. The document's authored pairs are asked
before and after training; neither run trains on them.

    questions    recipes/notes_online.yaml: the frozen base asks about spans of the prose, and the answers are trained
    prose        the prose alone, as next-token prediction

The document consists of passages that the embedded base never saw, each with its pairs; or use `--notes FILE`. Prints
one line of JSON per run: recall of the authored answers (exact match, token F1, fuzzy match), their loss in nats per
token, the perplexity of general text, and the number of tokens; then the means over the seeds. Takes about 10 minutes
per seed on one core.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from dlm_trl import tiny

ROOT = Path(__file__).parents[1]
FRONT = """---
dlm_id: 01K9PASSAGE00000000000000A
dlm_version: 15
base_model: tiny
system_prompt: null
training: {adapter: lora, lora_r: 32, lora_alpha: 64, lora_dropout: 0.0, sequence_len: 512, precision: fp32}
---
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=120, help="steps of the run with questions (default: %(default)s)")
    parser.add_argument("--passages", type=int, default=40, help="passages in the document (default: %(default)s)")
    parser.add_argument("--notes", type=Path, help="use this document instead")
    parser.add_argument("--learning-rate", default="0.003", help="for all runs (default: %(default)s)")
    options = parser.parse_args()
    machine = {"torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps({"machine": machine, **{name: str(value) for name, value in vars(options).items()}}), flush=True)
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DLM_HOME"] = str(Path(folder) / "home")
        notes = options.notes.resolve() if options.notes else document(Path(folder) / "passages.dlm", options.passages)
        for seed in options.seeds:
            for name, (before, after) in compare(Path(folder) / str(seed), notes, seed, options).items():
                print(json.dumps({"seed": seed, "run": name, **after}), flush=True)
                results.setdefault("before", []).append(before)
                results.setdefault(name, []).append(after)
    for name, runs in results.items():
        means = {measure: round(statistics.mean(run[measure] for run in runs), 4) for measure in runs[0]}
        print(json.dumps({"mean of": name, **means}))


def document(path: Path, count: int) -> Path:
    """Write passages that the base was never trained on, each followed by its pairs."""
    parts = [FRONT]
    for line in (tiny.path() / "held_out.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        passage = json.loads(line)
        pairs = "\n\n".join(f"### Q\n{question}\n### A\n{answer}" for question, answer in passage["pairs"])
        parts.append(f"::prose::\n{passage['prose']}\n\n::instruction::\n{pairs}\n")
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def compare(folder: Path, notes: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    common = {"notes": notes, "seed": seed, "learning_rate": options.learning_rate, "max_questions": 1000}
    questions = {"config": ROOT / "recipes" / "notes_online.yaml", **common}
    prose = {"rows": "none", "eval_strategy": "no", "save_strategy": "no", "lr_scheduler_type": "constant_with_warmup"}
    prose |= {"warmup_steps": 5, "logging_steps": 5, "per_device_train_batch_size": 4, **common}
    prose |= {"rehearsal": 1, "rehearsal_text": ROOT / "recipes" / "rehearsal.txt"}
    runs = {"questions": run(folder / "questions", max_steps=options.steps, **questions)}
    runs["prose"] = run_with_tokens(folder / "prose", runs["questions"][1]["tokens"], **prose)
    return runs


def run_with_tokens(folder: Path, target: float, **settings: Any) -> tuple[dict[str, float], dict[str, float]]:
    """A run on about `target` tokens; a short run first shows how many tokens a step has."""
    steps = 10
    tokens = run(folder / "short", max_steps=steps, **settings)[1]["tokens"]
    return run(folder / "run", max_steps=max(1, round(steps * target / tokens)), **settings)


def run(folder: Path, **settings: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Run the recipe in a subprocess; returns its measures before and after."""
    command = [sys.executable, str(ROOT / "recipes" / "sft.py"), "--output_dir", str(folder)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    tokens = max(line["num_tokens"] for line in report["history"] if "num_tokens" in line)
    short = {"validation loss": "loss", "exact match, held-out": "exact match", "F1, held-out": "F1"}
    short |= {"fuzzy match, held-out": "fuzzy match", "perplexity, general text": "perplexity"}
    measured = [(short[m["name"]], m) for m in report["measures"] if m["name"] in short]
    before = {name: round(m["before"], 4) for name, m in measured}
    return before | {"tokens": 0}, {name: round(m["after"], 4) for name, m in measured} | {"tokens": tokens}


if __name__ == "__main__":
    main()
