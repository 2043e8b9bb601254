"""From settings to a `Run`: everything that can be checked without weights is checked here.

run = prepare(read_configuration(argv))        # or one PreflightError with a line for each problem
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from dlm_trl.models import tokenize
from dlm_trl.models.chat import set_thinking
from dlm_trl.models.load import load_config, load_tokenizer
from dlm_trl.models.weights import find_weights
from dlm_trl.notes import Document
from dlm_trl.notes.source_report import not_notes, parts_table, source_parts
from dlm_trl.notes.store import check_writable
from dlm_trl.online.rows_on_disk import load_rows
from dlm_trl.train.adapter import adapt, merge_problems, peft_config
from dlm_trl.train.checkpoints import SPARE, bytes_needed, check_output_dir, compare_settings, find_checkpoint
from dlm_trl.train.config import Configuration
from dlm_trl.train.contexts import pair_contexts
from dlm_trl.train.data import Rows, read_rows, require_rows, tokenize_rows
from dlm_trl.train.distributed import sharding
from dlm_trl.train.frontmatter import unused_keys
from dlm_trl.train.launch_problems import launch_problems
from dlm_trl.train.preflight import Problems, fit_to_base, missing_extras, raise_epochs
from dlm_trl.train.rehearsal import pieces
from dlm_trl.train.run import Run
from dlm_trl.train.spec import evaluation_spec
from dlm_trl.train.task import check_task

# Settings of SFTConfig that this recipe would ignore, and why.
IGNORED = {
    "model_init_kwargs": "the recipe loads the base itself",
    "completion_only_loss": "the recipe tokenizes the rows itself, with the loss on the answers",
    "assistant_only_loss": "the recipe tokenizes the rows itself, with the loss on the answers",
    "dataset_text_field": "the recipe tokenizes the rows itself",
    "dataset_kwargs": "the recipe tokenizes the rows itself",
    "enable_jit_checkpoint": "every run leaves a checkpoint on SIGTERM",
}


def prepare(configuration: Configuration) -> Run:
    """Check the settings, the document, the base's configuration, tokenizer and files, and the output folder.

    Lowers max_length to what the base can read, raises the epochs of very few rows, and gives the tokenizer a pad
    token. Raises PreflightError, and NoRowsError if no row fits max_length.
    """
    problems = Problems()
    adapter, training, task = configuration.adapter, configuration.training, configuration.task
    notices: list[str] = []
    base = tokenizer = rows = spec = task_rows = texts = None
    trainable, adapted = 0, None
    with problems:
        base = load_config(configuration.base_model)
        tokenizer = load_tokenizer(configuration.base_model, training.chat_template_path)
        set_thinking(tokenizer, adapter.enable_thinking)
    with problems:
        spec = evaluation_spec(configuration.notes, task, training.seed)
        rows = read_rows(configuration.document, configuration.notes, spec)
        if configuration.document and not (task.task or task.task_rows):
            require_rows(rows, configuration.document)
    if base and tokenizer:
        notices += fit_to_base(configuration, training, base, tokenizer)
        # The tokenizer has its template now; the trainer must not load it again (and resize the model for it).
        training.chat_template_path = None
        try:
            adapted = adapt(base, peft_config(adapter))
            trainable = adapted.num_parameters(only_trainable=True)
        except ValueError as error:
            problems.add(f"The adapter does not fit the base: {' '.join(str(error).split())}")
        problems.extend(_sequence_problems(configuration, base, tokenizer, rows))
    if rows and configuration.document and configuration.notes.expand_sources:
        notices += _source_notices(configuration.document)
    if rows:
        notices += raise_epochs(configuration, training, sum(len(part) for part in rows.parts()))
    if tokenizer and spec and rows:
        with problems:
            task_rows = _task_rows(configuration, tokenizer)
        problems.extend(check_task(configuration, tokenizer, rows, spec))
        problems.extend(_objective_problems(configuration, rows))
    if tokenizer and configuration.notes.rehearsal_text and configuration.notes.rehearsal:
        try:
            texts = pieces(configuration.notes.rehearsal_text, tokenizer)
        except ValueError as error:
            problems.add(f"rehearsal_text: {error}.")
    problems.extend(missing_extras(training, adapter.quantization))
    problems.extend(launch_problems(adapter, training))
    problems.extend(_contradictions(configuration))
    if configuration.document and any(section.kind == "preference" for section in configuration.document.sections):
        notices.append("The preference sections are not trained here: run `dlm-trl dpo` afterwards.")
    if configuration.document and (unused := unused_keys(configuration.document)):
        notices.append(f"Not used by this package: {', '.join(unused)}.")
    needed = bytes_needed(trainable, training, adapter.adapter == "adalora")
    problems.extend(check_output_dir(training, needed))
    if configuration.document:
        with problems:
            check_writable(configuration.document.frontmatter.dlm_id, trainable * 4 + SPARE)
    checkpoint, resume_settings = None, _resume_settings(configuration, rows)
    with problems:
        checkpoint, which = find_checkpoint(training, configuration.notes.overwrite)
        notices += which
        if checkpoint:
            notices += compare_settings(Path(checkpoint), resume_settings)
    problems.raise_any()
    assert rows is not None and spec is not None and base is not None and adapted is not None  # or there was a problem
    tokens = tokenize_rows(rows, tokenizer, training.max_length, training.seed)
    distilled = rows.pairs if configuration.notes.objective != "nll" else None
    contexts = pair_contexts(distilled, rows.book, tokenizer) if distilled is not None else {}
    with problems:  # last, because it may download the weights
        problems.extend(_merge_problems(configuration.base_model, base, adapted))
    problems.raise_any()
    return Run(
        notes=configuration.notes,
        adapter=adapter,
        task=task,
        training=training,
        base_model=configuration.base_model,
        document=configuration.document,
        tokenizer=tokenizer,
        peft_config=peft_config(adapter),
        trainable=trainable,
        rows=rows,
        tokens=tokens,
        task_rows=task_rows,
        contexts=contexts,
        rehearsal_texts=texts,
        eval_spec=spec,
        checkpoint=checkpoint,
        resume_settings=resume_settings,
        notices=tuple(notices),
    )


def _resume_settings(configuration: Configuration, rows: Rows | None) -> dict[str, Any]:
    """What decides how a run goes on from a checkpoint."""
    adapter, training = configuration.adapter, configuration.training
    names = ("adapter", "lora_r", "lora_alpha", "target_modules", "quantization", "adalora_init_r")
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    return {
        "base_model": configuration.base_model,
        **{name: getattr(adapter, name) for name in names},
        "rows": sum(len(part) for part in rows.parts()) if rows else 0,
        "rows per step": per_step,
        "sharding": sharding(training),
        "task": configuration.task.task,
        "rehearsal": configuration.notes.rehearsal,
        "objective": configuration.notes.objective,
        "enable_thinking": adapter.enable_thinking,
        **{name: getattr(training, name) for name in ("seed", "learning_rate", "max_length", "num_train_epochs")},
    }


def _sequence_problems(
    configuration: Configuration, base: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, rows: Rows | None
) -> list[str]:
    return [text for part in (rows.parts() if rows else ()) for text in tokenize.preflight(tokenizer, base, part)]


def _task_rows(configuration: Configuration, tokenizer: PreTrainedTokenizerBase) -> Dataset | None:
    folder = configuration.task.task_rows
    return load_rows(folder, tokenizer, configuration.training.max_length) if folder else None


def _merge_problems(base_model: str, base: PretrainedConfig, adapted: PeftModel) -> list[str]:
    """Why the adapter couldn't be merged. If the base is stored quantised, its original is what to merge into."""
    if getattr(base, "quantization_config", None):
        return []
    return merge_problems(base, adapted, find_weights(base_model).files)


def _source_notices(document: Document) -> list[str]:
    """What the document's sources contribute, and a warning if most of it isn't notes."""
    parts = source_parts(document)
    return [*([parts_table(parts)] if parts else []), *(f"Warning: {text}" for text in not_notes(parts) or ())]


def _objective_problems(configuration: Configuration, rows: Rows) -> Iterator[str]:
    notes = configuration.notes
    if notes.objective == "nll":
        return
    if rows.pairs is not None and not rows.book:
        yield f"objective {notes.objective} needs prose for the base to read, and the document has none."
    if rows.pairs is None and not configuration.task.task:
        yield f"objective {notes.objective} is for pairs and tasks, and there are none to train on."
    if configuration.task.task_rows:
        yield f"objective {notes.objective} needs the notes behind each row, which task_rows doesn't keep: set task."


def _contradictions(configuration: Configuration) -> list[str]:
    adapter, training, notes = configuration.adapter, configuration.training, configuration.notes
    problems = []
    if adapter.adapter == "qlora" and adapter.quantization is None:
        problems.append("adapter qlora needs quantization 4bit or 8bit.")
    if adapter.target_modules == []:
        problems.append("target_modules is empty: nothing would be trained. Name some, or leave it out.")
    if "lm_head" in (adapter.target_modules or ()):
        problems.append("target_modules contains lm_head, which SFTTrainer can't train an adapter on. Leave it out.")
    if adapter.adapter == "adalora" and not 0 <= adapter.adalora_warmup < 1 - adapter.adalora_final <= 1:
        problems.append("adalora_warmup and adalora_final leave no steps to prune in: together they must be below 1.")
    if notes.rehearsal_text and configuration.settings["rehearsal"].is_default:
        problems.append("rehearsal_text is set, and rehearsal, its weight, isn't: nothing would be rehearsed.")
    for name, why in IGNORED.items():
        if name in configuration.settings and not configuration.settings[name].is_default:
            problems.append(f"{configuration.settings[name].source}: {name} has no effect: {why}. Leave it out.")
    if training.use_liger_kernel and find_spec("liger_kernel") is None:
        source = configuration.settings["use_liger_kernel"].source
        problems.append(f"{source}: use_liger_kernel needs the package liger-kernel. Install it, or leave this out.")
    if training.accelerator_config.split_batches:
        source = configuration.settings["accelerator_config"].source
        why = "split_batches doesn't work with transformers' sampler. Leave it out."
        problems.append(f"{source}: accelerator_config: {why}")
    if training.dataloader_persistent_workers and not training.dataloader_num_workers:
        problems.append("dataloader_persistent_workers needs dataloader_num_workers above 0.")
    if notes.questions and not notes.notes:
        problems.append("questions are asked about a document, and no notes are set.")
    if notes.world_size is not None and notes.world_size != training.world_size:
        problems.append(f"The run has {training.world_size} processes, and world_size asks for {notes.world_size}.")
    return problems
