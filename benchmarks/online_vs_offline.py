"""Rows written during training or before it: `python benchmarks/online_vs_offline.py [--steps 100]`.

Trains the tiny base on multiple-choice symbol binding, five options, 160 questions per step, from the same start:

    online     the frozen base writes each step's rows within the step
    offline    recipes/synthesize_task.py writes the same rows first; the stock SFTTrainer trains on them in order
    reused     the stock SFTTrainer trains ten times on the rows of the first tenth of the steps, shuffled

Prints one line of JSON per run: accuracy over steps on held-out words, seconds of writing and of training (without
measuring), and bytes on disk of the rows, of their `datasets` cache, and of an online run's log. Then prints the
ratios. `--clock cpu` counts this process's CPU time, for a machine with other load. Takes about 20 minutes on 2 cores
with the default of 100 steps.
"""

import argparse
import json
import os
import platform
import runpy
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on a GPU, the recipe would use another precision

import datasets
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from dlm_trl.evaluation.mcsb import McsbQuestion, described_questions, measure_binding
from dlm_trl.models.batching import evaluating
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.online.callback import OnlineSynthesisCallback, placeholder
from dlm_trl.online.rows_on_disk import load_rows
from dlm_trl.tasks.mcsb import Mcsb

RECIPE = Path(__file__).parents[1] / "recipes" / "synthesize_task.py"
ROWS = 160  # questions per step
REUSE = 10  # the run that reuses rows trains this many times on each
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Curve(TrainerCallback):
    """Measures accuracy every few steps, and the seconds that measuring took."""

    def __init__(self, tokenizer: Any, questions: list[McsbQuestion], options: argparse.Namespace) -> None:
        self.tokenizer, self.questions = tokenizer, questions
        self.every, self.now = options.every, CLOCKS[options.clock]
        self.accuracy: dict[int, float] = {}
        self.seconds = 0.0

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        self._measure(model, 0)

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure(model, state.global_step)

    def _measure(self, model, step: int) -> None:
        started = self.now()
        with torch.random.fork_rng(), evaluating(model):
            self.accuracy[step] = round(measure_binding(model, self.tokenizer, self.questions).accuracy, 4)
        self.seconds += self.now() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=20, help="steps between measurements (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=100, help="held-out questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=[*CLOCKS], default="wall")
    options = parser.parse_args()
    if options.steps % REUSE:
        parser.error(f"--steps must be a multiple of {REUSE}.")
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, **vars(options)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    datasets.config.HF_DATASETS_CACHE = str(folder / "cache")
    datasets.disable_progress_bars()
    tokenizer, now = load_tokenizer("tiny"), CLOCKS[options.clock]
    task = Mcsb(tokenizer, split="held_out")
    questions = described_questions(load_base("tiny", "float32"), task, options.questions, options.seed)

    runs = {"online": train(folder / "online", None, options, questions)}
    show("online", runs["online"] | {"bytes": {"log": size(folder / "online")}})

    started = now()
    arguments = ["--task", "mcsb", "--base_model", "tiny", "--n", options.steps * ROWS, "--rows_per_step", ROWS]
    arguments += ["--seed", options.seed, "--out", folder / "rows"]
    runpy.run_path(str(RECIPE))["main"]([str(argument) for argument in arguments])
    writing = round(now() - started, 1)
    rows = load_rows(folder / "rows", tokenizer)
    runs["offline"] = {"writing": writing, **train(folder / "offline", rows, options, questions)}
    show("offline", runs["offline"] | {"bytes": {"rows": size(folder / "rows"), "cache": size(folder / "cache")}})

    few = rows.select(range(len(rows) // REUSE))
    shuffled = train(folder / "reused", few, options, questions, "random")
    runs["reused"] = {"writing": round(writing / REUSE, 1), **shuffled}
    show("reused", runs["reused"] | {"bytes": {"rows": size(folder / "rows") // REUSE}})

    base = runs["online"]["training"]
    whole = {name: run.get("writing", 0) + run["training"] for name, run in runs.items()}
    ratios = {
        "first run": {name: round(seconds / base, 2) for name, seconds in whole.items()},
        "each further run": {name: round(run["training"] / base, 2) for name, run in runs.items()},
        "errors at the end": {name: round(1 - run["accuracy"][options.steps], 4) for name, run in runs.items()},
        "offline equals online at every step": runs["online"]["accuracy"] == runs["offline"]["accuracy"],
    }
    show("against online", ratios)


def train(
    folder: Path,
    rows: Dataset | None,
    options: argparse.Namespace,
    questions: list[McsbQuestion],
    order: str = "sequential",
) -> dict[str, Any]:
    """Train on these rows, or online if `rows` is None."""
    torch.manual_seed(options.seed)
    tokenizer = load_tokenizer("tiny")
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=ROWS,
        learning_rate=2e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        train_sampling_strategy=order,
        seed=options.seed,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    curve, now = Curve(tokenizer, questions, options), CLOCKS[options.clock]
    trainer = SFTTrainer(
        load_base("tiny", "float32"),
        args,
        train_dataset=placeholder(args) if rows is None else rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[curve],
    )
    trainer.remove_callback(PrinterCallback)
    if rows is None:
        OnlineSynthesisCallback(Mcsb(tokenizer), seed=options.seed).attach(trainer)
    started = now()
    trainer.train()
    return {"training": round(now() - started - curve.seconds, 1), "accuracy": curve.accuracy}


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def show(name: str, results: dict[str, Any]) -> None:
    print(json.dumps({name: results}), flush=True)


if __name__ == "__main__":
    main()
