"""The recipe in one process and in two, with DDP, ZeRO-2 and ZeRO-3: how far losses and adapters differ.

    python -m tests.e2e.equal            # prints the table of benchmarks/RESULTS.md

All runs are float32, on the embedded base, and train on the same rows in each step: 8 in each process, in two batches
of one process or in one batch of each of two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
STEPS, SAVE_STEPS = 4, 2
# Launch files, and what the run says about itself with them.
SHAPES = {
    "cpu_2proc": "2 (MULTI_CPU)",
    "deepspeed_zero2_cpu": "2 (DEEPSPEED, ZeRO-2)",
    "deepspeed_zero3_cpu": "2 (DEEPSPEED, ZeRO-3)",
}
COMMON = f"""--base_model tiny --bf16 false --lora_r 8 --lora_dropout 0.0 --max_steps {STEPS} --learning_rate 0.002
--per_device_train_batch_size 8 --logging_steps 1 --save_strategy steps --save_steps {SAVE_STEPS} --save_total_limit 9
--measure false --disable_tqdm true --lr_scheduler_type constant --warmup_steps 0""".split()
RUNS = {
    "notes": "--config recipes/notes.yaml --rehearsal 2",
    "mcsb": "--config recipes/mcsb.yaml --rehearsal 2 --stage_accuracy 0.01 --stage_window 1 "
    "--conditions 3:upper --condition_questions 4",
    "prose_qa": "--config recipes/notes_online.yaml",
    "distillation": "--config recipes/notes.yaml --rehearsal 0 --objective both",
}


@dataclass(frozen=True)
class Ended:
    """A run that ended: its output folder, what it printed, and its exit code."""

    out: Path
    printed: str
    code: int

    def history(self) -> list[dict[str, float]]:
        """The log of the whole run, from its last checkpoint."""
        assert self.code == 0, self.printed[-5000:]
        return json.loads((self.out / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]

    def losses(self) -> list[float]:
        """The loss of each step."""
        return [line["loss"] for line in self.history() if "loss" in line]

    def adapter(self) -> dict[str, torch.Tensor]:
        assert self.code == 0, self.printed[-5000:]
        return load_file(self.out / "adapter_model.safetensors")


def run(folder: Path, settings: list[str], shape: str | None = None, script: str = "recipes/sft.py") -> Ended:
    """Run the recipe in one process, or with a launch file in two.

    script: what to run, with its own arguments in front of the recipe's.
    """
    batches = ["--gradient_accumulation_steps", "2" if shape is None else "1"]
    command = [*script.split(), *COMMON, *settings, *batches, "--output_dir", str(folder / "out")]
    if shape:
        launch = ["accelerate.commands.launch", "--config_file", f"accelerate_configs/{shape}.yaml"]
        command = ["-m", *launch, *command]
    own = {"CUDA_VISIBLE_DEVICES": "", "DLM_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return Ended(folder / "out", done.stdout, done.returncode)


def loss_difference(a: Ended, b: Ended) -> float:
    """The largest difference between the losses of a step."""
    first, second = a.losses(), b.losses()
    assert len(first) == len(second) == STEPS
    return max(abs(x - y) for x, y in zip(first, second, strict=True))


def adapter_difference(a: Ended, b: Ended) -> float:
    """The norm of the difference between two adapters, as a share of the first one's norm."""
    first, second = a.adapter(), b.adapter()
    assert first.keys() == second.keys()
    apart = sum((first[name] - second[name]).double().square().sum() for name in first)
    return float((apart / sum(tensor.double().square().sum() for tensor in first.values())).sqrt())


def main() -> None:
    """Print a row per task and launch file."""
    print("| rows | launch file | largest difference of a loss | of the adapter |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings in RUNS.items():
            alone = run(Path(scratch, name), settings.split())
            for shape in SHAPES:
                both = run(Path(scratch, f"{name}-{shape}"), settings.split(), shape)
                row = f"| {name} | `{shape}.yaml` | {loss_difference(alone, both):.1e} |"
                print(f"{row} {adapter_difference(alone, both):.1e} |", flush=True)


if __name__ == "__main__":
    main()
