"""What the report of a run says: `report.write(output_dir, run_report(trainer, run, configuration, measures, …))`."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from dlm_trl.evaluation.advice import advise, missed
from dlm_trl.evaluation.content import Report
from dlm_trl.evaluation.numbers import Measure
from dlm_trl.models import lineage
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.synth_runs import read_runs
from dlm_trl.train.config import Configuration
from dlm_trl.train.distributed import processes
from dlm_trl.train.measure import MeasureBefore, Numbers, samples
from dlm_trl.train.run import Run
from dlm_trl.train.settings import shown_settings

VERSIONS = ("dlm-trl", "torch", "transformers", "peft", "trl")


def run_report(
    trainer: SFTTrainer,
    run: Run,
    configuration: Configuration,
    measures: Sequence[Measure],
    before: MeasureBefore,
    after: Numbers,
    rows: Sequence[tuple[str, str]] = (),
) -> Report:
    """What the run was, what it changed, and what to do next; call it once output_dir holds the lineage.

    rows: some (prompt, target) rows of a task.
    """
    questions = run.rows.questions
    return Report(
        run=run_facts(trainer, run, before.seconds),
        measures=measures,
        samples=samples(questions, before.numbers, after),
        history=trainer.state.log_history,
        rows=rows,
        missed=missed(questions, after.recall.answers),
        advice=advise(measures),
        synthesis=read_runs(run.document.frontmatter.dlm_id) if run.document else (),
        lineage=lineage.read(Path(run.training.output_dir)),
        settings=shown_settings(configuration),
    )


def run_facts(trainer: SFTTrainer, run: Run, measured: float) -> dict[str, Any]:
    """What the report says about the run, apart from its numbers.

    measured: the seconds before the first step, which the trainer counts as training.
    """
    sources = {"document": run.notes.notes, "task": run.task.task, "rows of a task": run.task.task_rows}
    accelerator, base = trainer.accelerator, ModelRef(run.base_model)
    seconds = sum(line.get("train_runtime", 0.0) for line in trainer.state.log_history) - measured
    return {
        **{name: source for name, source in sources.items() if source},
        "base": f"{run.base_model}, {base.conversion}" if base.conversion else run.base_model,
        "adapter": f"{run.adapter.adapter}, {run.trainable:,} parameters",
        "rows": run.rows.provenance(),
        "shares of the loss": {kind: round(share, 3) for kind, share in run.tokens.shares().items()},
        "training": f"{trainer.state.global_step} steps in {seconds:,.0f} s",
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": run.training.seed,
        "processes": processes(accelerator),
        "hardware": hardware(),
        "versions": {name: version(name) for name in VERSIONS},
    }


def hardware() -> str:
    """The accelerators of this machine, or its processor, in a few words."""
    if torch.cuda.is_available():
        found = Counter(torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count()))
        return ", ".join(f"{count} × {name}" for name, count in found.items())
    return f"{os.cpu_count()} cores of a CPU ({platform.machine()})"
