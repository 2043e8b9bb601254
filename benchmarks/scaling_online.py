"""Online training on one and two processes: `python benchmarks/scaling_online.py [--base_model tiny] [--steps 6]`.

The stock SFTTrainer with OnlineSynthesisCallback and the task mcsb, `--questions` per step over all processes together,
so two processes do the same work as one. Each process has one thread. Prints seconds per step and what they are spent
on, means over steps and processes, without the first step:

generation   writing the rows; `generation_share` is what the callback logs of it
waiting      until the slowest process has its rows: in the trainer's exchange of token counts, which comes next
training     forward and backward passes; with several processes, the all-reduce of the adapter's gradients too
rest         collating, the optimizer, gathering metrics, logging

Also prints the standard deviation of the seconds in which a process writes the rows of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).parents[1]
PARTS = ("generation", "waiting", "training", "rest")


def train(base_model: str, steps: int, questions: int, output: Path) -> None:
    """Train in this process, one of several; each writes seconds per step and per part into the output folder."""
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from dlm_trl.models.load import load_base, load_tokenizer
    from dlm_trl.online.callback import OnlineSynthesisCallback, placeholder
    from dlm_trl.tasks.mcsb import Mcsb
    from dlm_trl.train.loss import scored_where_labelled

    world = int(os.environ.get("WORLD_SIZE", "1"))
    args = SFTConfig(
        output_dir=str(output),
        max_steps=steps + 1,
        per_device_train_batch_size=questions // world,
        gradient_accumulation_steps=1,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    tokenizer = load_tokenizer(base_model)
    trainer = SFTTrainer(
        load_base(base_model, "float32"),
        args,
        train_dataset=placeholder(args),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.remove_callback(PrinterCallback)
    callback = OnlineSynthesisCallback(Mcsb(tokenizer), seed=0).attach(trainer)
    parts: Counter[str] = Counter()
    writing: list[float] = []
    ends: list[float] = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **settings)
            parts[name] += time.perf_counter() - began
            return result

        return run

    fetch = trainer.get_batch_samples

    def fetch_and_note(*arguments: Any) -> Any:
        batches = fetch(*arguments)
        parts["generation"] += callback._waited
        writing.append(callback._waited)
        return batches

    trainer.get_batch_samples = fetch_and_note
    trainer._get_num_items_in_batch = timed("waiting", trainer._get_num_items_in_batch)
    trainer.training_step = timed("training", trainer.training_step)

    class Ends(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())
            if state.global_step == 1:
                parts.clear()  # the first step includes one-time costs
                writing.clear()

    trainer.add_callback(Ends())
    with scored_where_labelled():
        trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line][1:]
    found = {name: parts[name] / steps for name in PARTS[:3]}
    found["rest"] = (ends[-1] - ends[0]) / steps - sum(found.values())
    found["share"] = sum(line["online/generation_share"] for line in logged) / steps
    found["rows"] = sum(line["online/rows"] for line in logged) / steps
    found["deviation"] = stdev(writing)
    found["world"] = trainer.accelerator.num_processes
    (output / f"{args.process_index}.json").write_text(json.dumps(found))
    trainer.accelerator.end_training()


def launch(options: argparse.Namespace, processes: int) -> list[dict[str, float]]:
    """What each of so many processes measured."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *(launcher if processes > 1 else []), __file__, "--worker", folder]
        command += ["--base_model", options.base_model, "--steps", str(options.steps)]
        command += ["--questions", str(options.questions)]
        own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | own, stdout=subprocess.DEVNULL)
        found = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))]
    assert [run["world"] for run in found] == [processes] * processes
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="tiny", help="a base model, as in a document (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="measured steps (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=64, help="per step (default: %(default)s)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        train(options.base_model, options.steps, options.questions, options.worker)
        return
    print(f"| {options.questions} questions per step | s per step | ratio | {' | '.join(PARTS)} | generation_share |")
    print(f"|---|---:|---:|{'---:|' * len(PARTS)}---:|")
    alone, deviations = 0.0, []
    for processes in (1, 2):
        found = launch(options, processes)
        means = {name: fmean(run[name] for run in found) for name in (*PARTS, "share", "deviation")}
        step = sum(means[name] for name in PARTS)
        alone = alone or step
        cells = " | ".join(f"{means[name]:.3f} ({means[name] / step:.0%})" for name in PARTS)
        ratio = alone / step
        print(f"| {processes} process(es) | {step:.3f} | {ratio:.2f} | {cells} | {means['share']:.3f} |", flush=True)
        deviations.append(f"{means['deviation']:.3f} s ({means['deviation'] / means['generation']:.0%})")
    print(f"Standard deviation of writing: {', '.join(deviations)} of the mean.")


if __name__ == "__main__":
    main()
