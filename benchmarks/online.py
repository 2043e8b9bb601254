"""Questions per second of the online loop, against a published loop (note_loop.py): `python benchmarks/online.py`.

    python benchmarks/online.py --adapter adalora --steps 8 --rounds 3
    python benchmarks/online.py --base_model llama-3.2-1b          # on a GPU: about 1 B parameters

Ours is the stock SFTTrainer with OnlineSynthesisCallback and the recipe's settings. All variants use the same base,
words, prompts and adapter, 160 questions per step in micro batches of 40, and temperature 0.5. The published loop, the
same loop with one more saving each time, and ours take turns, so that other load on the machine affects all of them.
Every figure is the median of the rounds, without start-up and a run's first step. Prints one line of JSON for each of:
the machine, the two loops, the ratio, the step after each saving, and on a GPU how generation compares to the limit set
by memory bandwidth. `--clock cpu` counts this process's CPU time, for a machine with other load.
"""

import argparse
import json
import os
import platform
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from generation import copied_bytes_per_second
from note_loop import (
    ACCUMULATION,
    GPU,
    LEARNING_RATE,
    MICRO_BATCH,
    SAVINGS,
    TEMPERATURE,
    WARMUP,
    Clock,
    Passes,
    Result,
    adapter_config,
    clock,
    load,
    train,
)
from peft import get_peft_model
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from dlm_trl.online.callback import OnlineSynthesisCallback, placeholder
from dlm_trl.tasks.mcsb import Mcsb
from dlm_trl.train.loss import scored_where_labelled

NOTE, OURS = "note", "ours"


class Steps(TrainerCallback):
    """Records when each step ended, and the number of forward passes in generation until then."""

    def __init__(self, now: Clock) -> None:
        self.now = now
        self.ends: list[tuple[float, int]] = []

    def attach(self, trainer: SFTTrainer) -> None:
        self.passes = Passes(trainer.accelerator.unwrap_model(trainer.model))
        trainer.add_callback(self)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append((self.now(), self.passes.count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="tiny", help="a base model, as in a document (default: %(default)s)")
    parser.add_argument("--adapter", choices=["lora", "adalora"], default="lora")
    parser.add_argument("--steps", type=int, default=4, help="measured steps of a run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    now = clock(options.clock)
    names = [NOTE, *SAVINGS, OURS]
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(options.rounds):
        for k, name in enumerate(names):
            seed = options.seed + number
            results[name].append(ours(options, seed, now) if name == OURS else note(options, seed, now, SAVINGS[:k]))
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    show("machine", {**machine, "device": torch.cuda.get_device_name() if GPU else "cpu", **vars(options)})
    for name in (NOTE, OURS):
        show(name, summary(results[name], options.steps))
    ratios = [b.rate / a.rate for a, b in zip(results[NOTE], results[OURS], strict=True)]
    show("ratio", {"median": round(median(ratios), 2), "rounds": [round(ratio, 2) for ratio in ratios]})
    show("steps", split(results, options.steps))
    if GPU:
        base, _ = load(options.base_model)
        weights = sum(p.numel() * p.element_size() for p in base.parameters())
        for name in (NOTE, OURS):
            show(f"bandwidth_{name}", bandwidth(results[name], weights))


def note(options: argparse.Namespace, seed: int, now: Clock, savings: tuple[str, ...]) -> Result:
    torch.manual_seed(seed)
    base, tokenizer = load(options.base_model)
    model = get_peft_model(base, adapter_config(options.adapter, options.steps + 1))
    return train(model, tokenizer, options.steps, seed, savings, now)


def ours(options: argparse.Namespace, seed: int, now: Clock) -> Result:
    torch.manual_seed(seed)
    base, tokenizer = load(options.base_model)
    steps = Steps(now)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):  # the trainer prints its log
        arguments = SFTConfig(
            folder,
            max_steps=options.steps + 1,
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=LEARNING_RATE,
            warmup_steps=WARMUP,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            gradient_checkpointing=False,
            bf16=GPU,
            use_cpu=not GPU,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = SFTTrainer(
            base,
            arguments,
            train_dataset=placeholder(arguments),
            processing_class=tokenizer,
            peft_config=adapter_config(options.adapter, options.steps + 1),
        )
        OnlineSynthesisCallback(Mcsb(tokenizer, temperature=TEMPERATURE), seed=seed).attach(trainer)
        steps.attach(trainer)
        with scored_where_labelled():
            trainer.train()
    log = [line for line in trainer.state.log_history if "loss" in line][1:]
    seconds_per_step = [end - begin for (begin, _), (end, _) in zip(steps.ends, steps.ends[1:], strict=False)]
    return Result(
        questions=round(sum(line["online/rows"] for line in log)),
        seconds=sum(seconds_per_step),
        generating=sum(
            line["online/generation_share"] * seconds for line, seconds in zip(log, seconds_per_step, strict=True)
        ),
        new_tokens=round(sum(line["online/new_tokens"] for line in log)),
        passes=steps.ends[-1][1] - steps.ends[0][1],
        loss=sum(float(line["loss"]) for line in log) / len(log),
        accuracy=sum(line["online/accuracy"] for line in log) / len(log),
    )


def summary(results: list[Result], steps: int) -> dict[str, Any]:
    rates = [result.rate for result in results]
    return {
        "questions_per_second": round(median(rates), 2),
        "rounds": [round(rate, 2) for rate in rates],
        "seconds_per_step": round(median(result.seconds for result in results) / steps, 3),
        "generation_share": round(median(result.generating / result.seconds for result in results), 3),
        "new_tokens_per_step": round(sum(result.new_tokens for result in results) / steps / len(results)),
        "passes_per_step": round(sum(result.passes for result in results) / steps / len(results), 1),
        "loss": round(median(result.loss for result in results), 3),
        "accuracy": round(median(result.accuracy for result in results), 3),
    }


def split(results: dict[str, list[Result]], steps: int) -> list[dict[str, Any]]:
    """Seconds per step: the published loop, with one more saving per line, ours; `saved` is against the line before."""
    lines: list[dict[str, Any]] = []
    for name, rounds in results.items():
        whole = median(result.seconds for result in rounds) / steps
        writing = median(result.generating for result in rounds) / steps
        saved = round(lines[-1]["seconds"] - whole, 3) if lines else 0.0
        lines.append({"with": name, "seconds": round(whole, 3), "generating": round(writing, 3), "saved": saved})
    return lines


def bandwidth(results: list[Result], weights: int) -> dict[str, Any]:
    """Tokens per second in generation, and the time to read all weights once per pass as a share of the time taken.

    weights: in bytes. Other reads, mainly keys and values, aren't counted, so the share can't reach 1.
    """
    per_second = copied_bytes_per_second()
    return {
        "bytes_per_second": round(per_second),
        "tokens_per_second": round(median(result.new_tokens / result.generating for result in results)),
        "share": round(median(result.passes * weights / per_second / result.generating for result in results), 4),
    }


def show(name: str, value: Any) -> None:
    print(json.dumps({name: value}), flush=True)


if __name__ == "__main__":
    main()
