"""Learning notes from questions that the frozen base writes inside the steps, against the prose alone.

    python benchmarks/prose_qa.py                                  # recipes/notes.dlm on SmolLM2: an hour on a CPU
    python benchmarks/prose_qa.py --notes FILE.dlm --questions FILE.jsonl

Runs of the same document, base, adapter, learning rate and rehearsal, none of which trains on an authored pair:

    questions    recipes/notes_online.yaml: a rule begins questions about the prose, and the frozen base finishes them
    prose        the prose alone, as next-token prediction, with the same number of trained tokens

The document's pairs and the questions file are asked before and after training. Prints one line of JSON per run: F1
and multiple choice of each group of questions, the perplexity of general text, and the number of tokens.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
NAMES = ("F1", "multiple choice", "exact match", "inventions", "perplexity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--steps", type=int, default=100, help="steps of the run with questions (default: %(default)s)")
    parser.add_argument("--notes", type=Path, default=ROOT / "recipes/notes.dlm")
    parser.add_argument("--questions", type=Path, default=ROOT / "recipes/notes_questions.jsonl")
    parser.add_argument("--base_model", help="default: the document's")
    parser.add_argument("--rows", type=int, default=16, help="rows per step (default: %(default)s)")
    options = parser.parse_args()
    machine = {"torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps({"machine": machine, **{name: str(value) for name, value in vars(options).items()}}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DLM_HOME"] = os.environ.get("DLM_HOME", str(Path(folder) / "home"))
        for seed in options.seeds:
            compare(Path(folder) / str(seed), seed, options)


def compare(folder: Path, seed: int, options: argparse.Namespace) -> None:
    common = {"config": ROOT / "recipes/notes_online.yaml", "seed": seed, "validation_fraction": 0}
    common |= {"notes": options.notes.resolve(), "questions": options.questions.resolve()}
    common |= {"base_model": options.base_model} if options.base_model else {}
    common["per_device_train_batch_size"] = options.rows
    before, after, tokens = run(folder / "questions", **common, max_steps=options.steps)
    print(json.dumps({"seed": seed, "run": "before", **before}), flush=True)
    print(json.dumps({"seed": seed, "run": "questions", "tokens": tokens, **after}), flush=True)
    # A short run first shows how many tokens a step of the prose has.
    alone = {**common, "config": ROOT / "recipes/notes.yaml", "rows": "none", "per_device_train_batch_size": 4}
    alone |= {"gradient_accumulation_steps": 1}
    _, _, some = run(folder / "short", **alone, max_steps=5, max_questions=1)
    _, after, tokens = run(folder / "prose", **alone, max_steps=max(1, round(5 * tokens / some)))
    print(json.dumps({"seed": seed, "run": "prose", "tokens": tokens, **after}), flush=True)


def run(folder: Path, **settings: Any) -> tuple[dict[str, float], dict[str, float], float]:
    """Run the recipe in a subprocess; returns its measures before and after, and the number of trained tokens."""
    command = [sys.executable, str(ROOT / "recipes/sft.py"), "--output_dir", str(folder)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    tokens = max(line["num_tokens"] for line in report["history"] if "num_tokens" in line)
    measured = [m for m in report["measures"] if m["name"].startswith(NAMES)]
    before, after = ({m["name"]: round(m[when], 4) for m in measured} for when in ("before", "after"))
    return before, after, tokens


if __name__ == "__main__":
    main()
