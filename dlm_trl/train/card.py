"""The model card of a trained adapter: `model_card(run, table)`."""

import json
from pathlib import Path

from dlm_trl.models.card_header import card_header
from dlm_trl.models.registry import ModelRef
from dlm_trl.notes.escape import code, markdown, redact
from dlm_trl.tasks.load import read_stages
from dlm_trl.train.run import AdapterRun, PreferenceRun, Run


def model_card(run: Run | PreferenceRun, table: str) -> str:
    """The model card: the data and who wrote it, the training, the numbers before and after."""
    adapter, training = run.adapter, run.training
    of_task = "" if isinstance(run, PreferenceRun) else task_data(run)
    data = "\n\n".join(filter(None, (of_task, document_data(run))))
    method = "dpo" if isinstance(run, PreferenceRun) else "sft"
    header = card_header(ModelRef(run.base_model).record, "peft", ["dlm", "trl", method, adapter.adapter])
    return f"""{header}

# An adapter for {markdown(run.base_model)}

Trained by {how(run)}{_on(run.base_model)}.

## Data

{data}

## Training

{adapter.adapter}, rank {adapter.lora_r}, alpha {adapter.lora_alpha}, dropout {adapter.lora_dropout}, quantisation \
{adapter.quantization or "none"}; learning rate {training.learning_rate:g}, {training.lr_scheduler_type.value}, \
seed {training.seed}, at most {training.max_length} tokens a row.

## Before and after

{table}
"""


def how(run: Run | PreferenceRun) -> str:
    """How the adapter was trained, in words."""
    if not isinstance(run, PreferenceRun):
        return "supervised fine-tuning (TRL's SFTTrainer, loss on the answers)"
    reference = "the base" if run.notes.reference == "base" else "the adapter that it began from"
    began = ", whose training is the step before in `lineage.json`" if run.earlier else ""
    losses = " + ".join(run.training.loss_type)
    return (
        f"preference optimisation (TRL's DPOTrainer, loss {losses}, beta {run.training.beta:g}, reference: "
        f"{reference}), from an adapter trained before{began}"
    )


def _on(base_model: str) -> str:
    """A note if the base's weights differ from the published ones."""
    base = ModelRef(base_model)
    return f", on weights of {code(base.record)} {base.conversion}" if base.conversion else ""


def document_data(run: Run | PreferenceRun) -> str:
    """The card's paragraph about the document, "" without one."""
    if run.document is None:
        return ""
    written = "\n".join(f"- {markdown(who)}: {count} rows" for who, count in run.rows.provenance().items())
    learned = f"""Training rows by author ("human" is the document's own text, other names are teachers):

{written}

Held out, only used to measure: {held_out_share(run)}."""
    return f"""The document {code(run.document.frontmatter.dlm_id)}. \
{learned if run.rows.provenance() else "No row was trained on as it is written in the document."}"""


def task_data(run: Run) -> str:
    """The card's paragraph about the task, "" without one."""
    task, training = run.task, run.training
    if task.task_rows:
        return f"Synthetic rows, written before the run, from the folder {code(Path(task.task_rows).name)}."
    if not task.task:
        return ""
    who = "the frozen base itself" if task.task_teacher == "base" else code(redact(task.task_teacher))
    stages = code(json.dumps(read_stages(task.stages)))
    return f"""Rows of the task {code(task.task)}, written during the run by {who}: {task.synthetic_fraction:.0%} of \
all. Its options, stage by stage: {stages}; seed {training.seed}."""


def held_out_share(run: AdapterRun) -> str:
    """How much of the document was held out, in words."""
    return f"{run.notes.validation_fraction:.0%} of the source groups ({run.eval_spec.split_method})"
