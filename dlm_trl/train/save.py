"""Save the adapter with everything needed to serve it, in output_dir and in the document's store.

folder = save(trainer, run)               # right after training: nothing that follows can lose the run
describe([folder, …], run, measures)      # the numbers, once they are measured
"""

import math
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, Trainer

from dlm_trl.evaluation.numbers import Measure
from dlm_trl.evaluation.training_card import adapter_card
from dlm_trl.models import lineage
from dlm_trl.models.generate import end_token_ids
from dlm_trl.models.load import TENSORS, TOKENIZER_FILES
from dlm_trl.models.registry import ModelRef
from dlm_trl.models.weights import find_weights, first_not_finite
from dlm_trl.notes import DlmError, store
from dlm_trl.notes.errors import AdapterError, DlmWriteError, StoreError
from dlm_trl.notes.escape import redact
from dlm_trl.notes.files import replace_file
from dlm_trl.notes.terminal import say
from dlm_trl.tasks.load import read_stages
from dlm_trl.train.arguments import TaskArguments
from dlm_trl.train.checkpoints import disk_errors
from dlm_trl.train.run import PreferenceRun, Run


def save(trainer: Trainer, run: Run | PreferenceRun) -> Path:
    """Write adapter, tokenizer, chat template, generation_config, lineage and model card, and make the adapter the
    document's current one.

    All processes must call this (ZeRO-3 gathers the weights); the first one writes. Returns the adapter's folder in the
    document's store, or output_dir without a document. Each file is replaced as a whole. Raises AdapterError, before an
    adapter is replaced or published, if the new one has weights that are not finite; DlmWriteError if the disk is full.
    """
    output_dir, document = Path(trainer.args.output_dir), run.document
    partial = output_dir / ".adapter.partial"
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    trainer.accelerator.wait_for_everyone()
    try:
        with warnings.catch_warnings(), disk_errors(output_dir, "The adapter"):
            if run.adapter.adapter == "adalora":  # PEFT warns about ranks that were pruned to 0
                warnings.filterwarnings("ignore", r"Adapter .* LoRA tensor\(s\) have invalid shape")
            trainer.save_model(str(partial), _internal_call=True)  # else it pushes to the Hub, which is not whole yet
            if trainer.is_world_process_zero():
                generation_config(trainer).save_pretrained(partial)
        if trainer.is_world_process_zero():
            check_finite(partial, trainer.state.log_history, "adapter")
            for file in partial.iterdir():
                os.replace(file, output_dir / file.name)
            describe([output_dir], run)
    finally:
        if trainer.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
    folder = output_dir
    if document is not None and trainer.is_world_process_zero():
        try:
            folder = store.publish_adapter(
                document.frontmatter.dlm_id, adapter_files(output_dir), run.notes.adapter_name
            )
        except (StoreError, DlmWriteError) as error:  # the run is whole without it: its numbers are still to come
            say(f"{error} The adapter is in {output_dir}. {_publish_later(run)}", err=True)
    trainer.accelerator.wait_for_everyone()
    if trainer.args.push_to_hub:
        trainer.push_to_hub("Model save")
    return folder


def _publish_later(run: Run | PreferenceRun) -> str:
    name = f" --name {run.notes.adapter_name}" if run.notes.adapter_name else ""
    return f"Then: dlm-trl publish {run.notes.notes} {run.training.output_dir}{name}"


def describe(folders: Sequence[Path], run: Run | PreferenceRun, measures: Sequence[Measure] = ()) -> None:
    """Write lineage and model card into the adapter's folders; call it again once there are numbers."""
    record = training_step(run, measures)
    records = [*(run.earlier if isinstance(run, PreferenceRun) else ()), record]
    for folder in folders:
        lineage.write(folder, records)
        replace_file(folder / "README.md", adapter_card(records, str(folder)).encode())


def check_finite(folder: Path, history: Sequence[Mapping[str, Any]], what: str) -> None:
    """Raises AdapterError for NaN or infinity in the adapter in this folder. what: adapter or checkpoint."""
    broken = first_not_finite(folder / TENSORS)
    if broken is None:
        return
    logged = ((line["step"], line[name]) for line in history for name in ("loss", "grad_norm") if name in line)
    step = next((step for step, value in logged if not math.isfinite(float(value))), None)
    since = f" The loss is not finite from step {step} on." if step is not None else ""
    raise AdapterError(
        f"Training diverged: {broken} is not finite.{since} The {what} is not saved.",
        "Lower learning_rate; with rehearsal, lower that too.",
        path=folder.parent,
    )


def adapter_files(output_dir: Path) -> list[Path]:
    """The adapter's own files in output_dir: no checkpoints, reports or trainer state."""
    names = ("adapter_config.json", TENSORS, "generation_config.json", lineage.FILE, "README.md")
    patterns = (*names, *TOKENIZER_FILES)
    return sorted(file for pattern in patterns for file in output_dir.glob(pattern))


def generation_config(trainer: Trainer) -> GenerationConfig:
    """Greedy decoding that ends at every end token of base and tokenizer.

    The pad token is left out unless it is the end token too: servers stop at any token of the list, and would give
    empty answers.
    """
    tokenizer = trainer.processing_class
    model = trainer.accelerator.unwrap_model(trainer.model)
    ends = [i for i in end_token_ids(model, tokenizer) if i == tokenizer.eos_token_id or i != tokenizer.pad_token_id]
    return GenerationConfig(
        do_sample=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )


def training_step(run: Run | PreferenceRun, measures: Sequence[Measure]) -> lineage.Step:
    """The run's entry in lineage.json: base, data, settings, numbers, and the questions that later checks ask again.

    A base without safetensors weights has no fingerprint; merging refuses it.
    """
    adapter, training, document, base = run.adapter, run.training, run.document, ModelRef(run.base_model)
    step: dict[str, Any] = {
        "step": "train",
        "document": document and document.frontmatter.dlm_id,
        "rows": run.rows.provenance(),
        "task": None,
        "base": base.record,
        "base_source": base.conversion,
        "adapter": {
            "type": adapter.adapter,
            "rank": adapter.lora_r,
            "alpha": adapter.lora_alpha,
            "dropout": adapter.lora_dropout,
        },
        "quantization": adapter.quantization,
        "seed": training.seed,
        "settings": {
            "learning_rate": training.learning_rate,
            "schedule": training.lr_scheduler_type.value,
            "epochs": training.num_train_epochs,
            "max_length": training.max_length,
        },
        "measures": [asdict(measure) for measure in measures],
        "eval_spec": asdict(run.eval_spec),
        "versions": {name: version(name) for name in ("dlm-trl", "torch", "transformers", "peft", "trl")},
    }
    if isinstance(run, PreferenceRun):
        preferences = run.training
        step["preferences"] = {
            "loss": preferences.loss_type, "beta": preferences.beta, "reference": run.notes.reference
        }  # fmt: skip
        step["adapter_from"] = {"folder": str(run.adapter_from.resolve()), TENSORS: run.weights}
    else:
        step["synthetic"] = run.rows.synthetic()
        step |= _task(run.task)
    try:
        weights = find_weights(run.base_model)
        found = {"base_revision": weights.revision, "base_fingerprint": lineage.fingerprint(weights)}
    except DlmError:
        found = {"base_revision": None, "base_fingerprint": None}
    return step | found


def _task(task: TaskArguments) -> lineage.Step:
    """The fields of a record about rows of a task."""
    if task.task is None:
        return {"task": task.task_rows, "written_before": Path(task.task_rows).name} if task.task_rows else {}
    written = {
        "teacher": redact(task.task_teacher),
        "share": task.synthetic_fraction,
        "stages": read_stages(task.stages),
    }
    return {"task": task.task, "written_online": written}
