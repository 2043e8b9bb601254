"""Kill training runs at random moments, restart them with the same command, and compare the adapters.

    python -m tests.e2e.kills --times 20          # or: make kills

A run of 8 steps on the embedded base saves a checkpoint every 2 steps and keeps one. Each trial kills it once and
restarts it: its adapter must have the same bytes as that of a run that nothing interrupted. SIGTERM and SIGINT must
also end it with exit code 128 + signal and without a traceback.

The runs are forked from a process that has imported the recipe, which takes most of a run's time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "sft.py"
STEPS, SAVE_STEPS = 8, 2
SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
HEAD = """---
dlm_id: 01K9BREADW1THS0VRD0VGH2T3R
dlm_version: 15
base_model: tiny
---
Kneading is pressing and folding a dough until it is smooth.
"""
PAIR = "\n::instruction::\n### Q\nWho bakes the bread of day {n}?\n### A\n{early}the baker of day {n}.\n"
# Three steps per epoch, so that checkpoints lie within epochs, also the last one; dropout, so that the random state
# counts; a constant learning rate, so that a step too many would count.
SETTINGS = f"""--max_steps {STEPS} --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --lora_r 4
--lora_dropout 0.1 --learning_rate 0.002 --lr_scheduler_type constant --save_strategy steps --save_steps {SAVE_STEPS}
--save_total_limit 1 --eval_strategy no --logging_steps 1 --max_questions 4 --disable_tqdm true
--resume_from_checkpoint true --overwrite true""".split()


class Run:
    """A running training run in `folder`, whose output goes to `folder/log`."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        self.out, self._log = folder / "out", folder / "log"
        folder.mkdir(exist_ok=True)
        self._log.write_bytes(b"")
        (notes := folder / "notes.dlm").write_text(
            HEAD + "".join(PAIR.format(n=n, early="Early, " * (n % 6)) for n in range(24))
        )
        self.argv = [str(RECIPE), "--notes", str(notes), "--output_dir", str(self.out), *settings]
        self.process = multiprocessing.get_context("fork").Process(target=self._train, args=(folder / "home",))
        self.process.start()

    def _train(self, home: Path) -> None:
        log = os.open(self._log, os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["DLM_HOME"] = str(home)
        sys.argv = self.argv
        runpy.run_path(str(RECIPE), run_name="__main__")

    def log(self) -> str:
        """What the run has printed."""
        return self._log.read_text(errors="replace")

    def wait_for(self, seen: Callable[[], bool]) -> None:
        """Wait until it is seen, or the run has ended."""
        while not seen() and self.process.is_alive():
            time.sleep(0.001)

    def kill(self, number: signal.Signals) -> bool:
        """Send the signal and wait for the end; False if the run had ended before."""
        alive = self.process.is_alive()
        if alive:
            os.kill(self.process.pid, number)
        self.process.join()
        return alive and self.process.exitcode != 0

    def adapter(self) -> bytes:
        """The bytes of the trained adapter, which is also the document's current one."""
        trained = (self.out / "adapter_model.safetensors").read_bytes()
        published = [file.read_bytes() for file in self.out.parent.rglob("versions/v*/adapter_model.safetensors")]
        assert published and set(published) == {trained}
        return trained


@dataclass
class Timing:
    """Seconds of the uninterrupted run, by part."""

    whole: float
    step: float
    measurement: float


def any_time(run: Run, chance: random.Random, timing: Timing) -> None:
    time.sleep(chance.uniform(0, timing.whole))


def while_saving(run: Run, chance: random.Random, timing: Timing) -> None:
    steps = range(SAVE_STEPS, STEPS + 1, SAVE_STEPS)
    folder = run.out / f"checkpoint-{chance.choice(steps)}"
    run.wait_for(folder.is_dir)
    files = chance.randrange(12)  # the seal and the deletion of the older checkpoint follow the last one
    run.wait_for(lambda: len([*folder.glob("*")]) >= files)


def in_the_last_step(run: Run, chance: random.Random, timing: Timing) -> None:
    run.wait_for(lambda: run.log().count("{'loss'") >= STEPS - 1)
    time.sleep(chance.uniform(0, timing.step))


def in_the_last_measurement(run: Run, chance: random.Random, timing: Timing) -> None:
    run.wait_for(lambda: "\nadapter: " in run.log())
    time.sleep(chance.uniform(0, timing.measurement))


MOMENTS = {
    "any time": any_time,
    "a checkpoint is written": while_saving,
    "the last step": in_the_last_step,
    "the last measurement": in_the_last_measurement,
}
MEASURED = (any_time, in_the_last_measurement)  # the other runs are faster without


def uninterrupted(folder: Path, settings: list[str]) -> tuple[bytes, Timing]:
    """The adapter of a run that nothing interrupts, and how long its parts take."""
    began = time.monotonic()
    run = Run(folder, settings)
    run.wait_for(lambda: run.log().count("{'loss'") >= STEPS - 1)
    last_step = time.monotonic()
    run.wait_for(lambda: "\nadapter: " in run.log())
    saved = time.monotonic()
    run.process.join()
    assert run.process.exitcode == 0, run.log()
    ended = time.monotonic()
    return run.adapter(), Timing(ended - began, saved - last_step, ended - saved)


def trial(
    folder: Path, settings: list[str], moment: str, number: signal.Signals, chance: random.Random, timing: Timing
) -> tuple[bytes, str]:
    """Kill a run at the moment and restart it; its adapter, and what was wrong on the way ("" if nothing was)."""
    for _ in range(10):  # on a busy machine, a run may end before its signal
        shutil.rmtree(folder, ignore_errors=True)
        run = Run(folder, settings)
        MOMENTS[moment](run, chance, timing)
        if run.kill(number):
            break
    else:
        raise SystemExit(f"{moment}, {number.name}: ten runs ended before the signal.\n{run.log()}")
    wrong = ""
    if number != signal.SIGKILL and (run.process.exitcode != 128 + number or "Traceback" in run.log()):
        wrong = f"exit code {run.process.exitcode}:\n{run.log()}"
    run = Run(folder, settings)
    run.process.join()
    if run.process.exitcode != 0:
        return b"", f"{wrong}the restarted run failed:\n{run.log()}"
    return run.adapter(), wrong


def main() -> None:
    """Print one row per moment and signal. Exits with 1 if an adapter differs or a signal ended a run badly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="how many kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--settings", default="", help="more settings of the recipe, in one word")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    settings = [*SETTINGS, *arguments.settings.split()]
    runpy.run_path(str(RECIPE))  # imports what all runs need
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    with tempfile.TemporaryDirectory() as scratch:
        expected, timing = uninterrupted(Path(scratch, "whole"), settings)
        unmeasured = [*SETTINGS, "--measure", "false", *arguments.settings.split()]
        # Three signals and four moments: every pair comes up within twelve kills.
        for index, moment, number in zip(range(arguments.times), cycle(MOMENTS), cycle(SIGNALS), strict=False):
            words = settings if MOMENTS[moment] in MEASURED else unmeasured
            adapter, wrong = trial(Path(scratch, f"run-{index}"), words, moment, number, chance, timing)
            row = counts[moment, number.name]
            row[0] += 1
            row[1] += adapter == expected
            row[2] += not wrong
            result = wrong or ("equal" if adapter == expected else "another adapter")
            print(f"{index + 1}. {moment}, {number.name}: {result}", file=sys.stderr, flush=True)
    print("| moment | signal | kills | equal adapters | clean ends |\n|---|---|---:|---:|---:|")
    for (moment, name), (kills, equal, clean) in sorted(counts.items()):
        print(f"| {moment} | {name} | {kills} | {equal} | {clean} |")
    kills, equal, clean = (sum(column) for column in zip(*counts.values(), strict=True))
    print(f"| all | | {kills} | {equal} | {clean} |")
    sys.exit(kills != equal or kills != clean)


if __name__ == "__main__":
    main()
