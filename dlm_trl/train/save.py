"""What stays of a run: the adapter with all that serving it needs, in output_dir and in the document's store."""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from transformers import GenerationConfig
from trl import SFTTrainer

from dlm_trl.evaluation.report import Measure, measures_table
from dlm_trl.models import lineage
from dlm_trl.models.card_header import card_header
from dlm_trl.models.generate import end_token_ids
from dlm_trl.models.load import TOKENIZER_FILES
from dlm_trl.models.registry import base_source, recorded_name
from dlm_trl.models.weights import find_weights
from dlm_trl.notes import DlmError, store
from dlm_trl.tasks.load import read_stages
from dlm_trl.train.config import Configuration
from dlm_trl.train.data import Rows
from dlm_trl.train.skill import eval_spec


def save(trainer: SFTTrainer, configuration: Configuration, rows: Rows, measures: Sequence[Measure]) -> Path:
    """Write adapter, tokenizer, chat template, generation_config, lineage and model card; make it the document's live
    adapter.

    Every process must call it (ZeRO-3 gathers the weights); one of them writes. Returns the folder in the document's
    store, or output_dir where there is no document.
    """
    output_dir, document = Path(trainer.args.output_dir), configuration.document
    with warnings.catch_warnings():
        if configuration.adapter.adapter == "adalora":  # PEFT takes a rank that was pruned to nothing for a part of one
            warnings.filterwarnings("ignore", r"Adapter .* LoRA tensor\(s\) have invalid shape")
        trainer.save_model()
    if trainer.is_world_process_zero():
        generation_config(trainer).save_pretrained(output_dir)
        lineage.write(output_dir, [training_step(configuration, rows, measures)])
        card = model_card(configuration, rows, measures_table(measures) if measures else "")
        (output_dir / "README.md").write_text(card, encoding="utf-8")
    folder = output_dir
    if document is not None:
        folder = store.next_version(document.frontmatter.dlm_id, configuration.notes.adapter_name)
        if trainer.is_world_process_zero():
            folder.mkdir(parents=True)
            for file in adapter_files(output_dir):
                shutil.copy2(file, folder)
            store.set_current_adapter(document.frontmatter.dlm_id, folder, configuration.notes.adapter_name)
    trainer.accelerator.wait_for_everyone()
    return folder


def adapter_files(output_dir: Path) -> list[Path]:
    """The files of an output_dir that belong to the adapter, without checkpoints, reports and the trainer's state."""
    names = ("adapter_config.json", "adapter_model.safetensors", "generation_config.json", lineage.FILE, "README.md")
    patterns = (*names, *TOKENIZER_FILES)
    return sorted(file for pattern in patterns for file in output_dir.glob(pattern))


def generation_config(trainer: SFTTrainer) -> GenerationConfig:
    """Greedy, ending at every end token of base and tokenizer; a pad token of its own is none of them.

    Servers end a text at any token of the list, so a pad token in it gives empty answers.
    """
    tokenizer = trainer.processing_class
    model = trainer.accelerator.unwrap_model(trainer.model)
    ends = [i for i in end_token_ids(model, tokenizer) if i == tokenizer.eos_token_id or i != tokenizer.pad_token_id]
    return GenerationConfig(
        do_sample=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )


def training_step(configuration: Configuration, rows: Rows, measures: Sequence[Measure]) -> lineage.Step:
    """What merging and later checks want to know of the run: on what, from what, how, how well, and how that is asked.

    A base whose weights are no safetensors has no fingerprint; merging refuses such a base by itself.
    """
    adapter, document = configuration.adapter, configuration.document
    step = {
        "step": "train",
        "document": document and document.frontmatter.dlm_id,
        "rows": rows.provenance(),
        "task": configuration.task.task or configuration.task.task_rows,
        "base": recorded_name(adapter.base_model),
        "base_source": base_source(adapter.base_model),
        "adapter": {"type": adapter.adapter, "rank": adapter.lora_r, "alpha": adapter.lora_alpha},
        "quantization": adapter.quantization,
        "seed": configuration.training.seed,
        "measures": {measure.name: measure.after for measure in measures},
        "eval_spec": asdict(eval_spec(configuration)),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }
    try:
        weights = find_weights(adapter.base_model)
        found = {"base_revision": weights.revision, "base_fingerprint": lineage.fingerprint(weights)}
    except DlmError:
        found = {"base_revision": None, "base_fingerprint": None}
    return step | found


def model_card(configuration: Configuration, rows: Rows, table: str) -> str:
    """A model card: what it was trained on, by whom that was written, how, and what it did."""
    adapter, training = configuration.adapter, configuration.training
    data = "\n\n".join(filter(None, (task_data(configuration), document_data(configuration, rows))))
    header = card_header(recorded_name(adapter.base_model), "peft", ["dlm", "trl", "sft", adapter.adapter])
    return f"""{header}

# An adapter for {adapter.base_model}

Trained by supervised fine-tuning (TRL's SFTTrainer, loss on the answers){_on(adapter.base_model)}.

## Data

{data}

## Training

{adapter.adapter}, rank {adapter.lora_r}, alpha {adapter.lora_alpha}, dropout {adapter.lora_dropout}, quantisation \
{adapter.quantization or "none"}; learning rate {training.learning_rate:g}, {training.lr_scheduler_type.value}, \
seed {training.seed}, at most {training.max_length} tokens a row.

## Before and after

{table}
"""


def _on(base_model: str) -> str:
    """What the model card says about a base whose weights are not those that were published."""
    source = base_source(base_model)
    return f", on weights of `{recorded_name(base_model)}` that were {source}" if source else ""


def document_data(configuration: Configuration, rows: Rows) -> str:
    """What the model card says about the document, "" where there is none."""
    if configuration.document is None:
        return ""
    written = "\n".join(f"- {who}: {count} rows" for who, count in rows.provenance().items())
    learned = f"""Rows to train on, by who wrote them ("human" is the document's own text, other names are teachers):

{written}

Held out and only measured: {held_out_share(configuration)}."""
    return f"""The document `{configuration.document.frontmatter.dlm_id}`. \
{learned if rows.parts() else "None of its rows was trained on as it is written."}"""


def task_data(configuration: Configuration) -> str:
    """What the model card says about the task, "" where there is none."""
    task, training = configuration.task, configuration.training
    if task.task_rows:
        return f"Synthetic rows, written before the run, from the folder `{Path(task.task_rows).name}`."
    if not task.task:
        return ""
    who = "the frozen base itself" if task.task_teacher == "base" else f"`{task.task_teacher}`"
    return f"""Rows of the task `{task.task}`, written during the run by {who}: {task.synthetic_fraction:.0%} of all. \
Its options, stage by stage: `{json.dumps(read_stages(task.stages))}`; seed {training.seed}."""


def held_out_share(configuration: Configuration) -> str:
    """How much of the document was held out, in words."""
    return f"{configuration.notes.validation_fraction:.0%} of the source groups ({configuration.notes.split_method})"
