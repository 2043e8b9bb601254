"""From settings to a `PreferenceRun`: everything that can be checked without weights is checked here.

run = prepare_preferences(read_preference_configuration(argv))        # or one PreflightError, a line for each problem
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError

from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.models import lineage
from dlm_trl.models.load import TENSORS, adapter_base, adapter_quantization, adapter_tokenizer, load_config, no_tensors
from dlm_trl.models.registry import ModelRef
from dlm_trl.models.weights import find_weights, first_not_finite
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import AdapterError, BaseModelError
from dlm_trl.notes.store import check_writable
from dlm_trl.train.adapter import adapt
from dlm_trl.train.arguments import AdapterArguments
from dlm_trl.train.checkpoints import SPARE, bytes_needed, check_output_dir, compare_settings, find_checkpoint
from dlm_trl.train.distributed import sharding
from dlm_trl.train.launch_problems import launch_problems
from dlm_trl.train.preference_config import PreferenceConfiguration
from dlm_trl.train.preferences import PreferenceRows, fitting, read_preferences, tokenization_problems
from dlm_trl.train.preflight import Problems, fit_to_base, missing_extras, raise_epochs
from dlm_trl.train.run import PreferenceRun
from dlm_trl.train.spec import absolute

# The losses of this release of TRL, which DPOConfig doesn't check.
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


def prepare_preferences(configuration: PreferenceConfiguration) -> PreferenceRun:
    """Check the settings, the rows, the adapter to start from and its base, and the output folder.

    Lowers max_length to what the base can read, raises the epochs of very few rows, drops rows that are too long, and
    gives the tokenizer a pad token. Raises PreflightError, and NoRowsError if no row fits max_length.
    """
    problems, notices = Problems(), list[str]()
    notes, training, document = configuration.notes, configuration.training, configuration.document
    folder = configuration.adapter_from
    base = tokenizer = rows = spec = asked = config = None
    base_model, weights, trainable, quantization = "", "", 0, None
    steps: list[lineage.Step] = []
    with problems:
        base_model = adapter_base(folder)
        steps, quantization = lineage.read(folder), adapter_quantization(folder)
        weights = lineage.file_hash(_tensors(folder))
        base, tokenizer = load_config(base_model), adapter_tokenizer(folder)
        _check_base(configuration, base_model, steps)
        config = _adapter_config(folder)
    with problems:
        spec, asked = _questions_about(configuration, steps)
        rows = read_preferences(document, asked, notes.adapter_name, spec, notes.validation_fraction)
    if base and tokenizer:
        notices += fit_to_base(configuration, training, base, tokenizer)
        if config:
            try:
                trainable = adapt(base, config).num_parameters(only_trainable=True)
            except ValueError as error:
                problems.add(f"{folder}: the adapter does not fit its base: {' '.join(str(error).split())}")
        if rows:
            problems.extend(tokenization_problems(rows, tokenizer, base))
    if rows:
        notices += raise_epochs(configuration, training, len(rows.train))
    problems.extend(missing_extras(training, quantization))
    problems.extend(_contradictions(configuration))
    problems.extend(_own_output(configuration, steps))
    problems.extend(check_output_dir(training, bytes_needed(2 * trainable, training, adalora=False)))
    with problems:
        check_writable(document.frontmatter.dlm_id, trainable * 4 + SPARE)
    adapter = _adapter_arguments(base_model, config, quantization)
    problems.extend(launch_problems(adapter, training))
    checkpoint, resume_settings = None, _resume_settings(configuration, base_model, weights, rows)
    with problems:
        checkpoint, which = find_checkpoint(training, notes.overwrite)
        notices += which
        if checkpoint:
            notices += compare_settings(Path(checkpoint), resume_settings)
    problems.raise_any()
    assert rows is not None and spec is not None and tokenizer is not None  # or there was a problem
    rows, dropped = fitting(rows, document, tokenizer, training.max_length)
    pairs, held_out_pairs = spec.pairs(asked)
    return PreferenceRun(
        notes=notes,
        adapter=adapter,
        training=training,
        base_model=base_model,
        document=document,
        tokenizer=tokenizer,
        trainable=trainable,
        rows=rows,
        eval_spec=spec,
        checkpoint=checkpoint,
        resume_settings=resume_settings,
        notices=(*notices, *dropped, _counts(rows)),
        adapter_from=folder,
        earlier=tuple(steps),
        weights=weights,
        questions=spec.notes_questions(pairs, held_out_pairs, asked),
    )


def _counts(rows: PreferenceRows) -> str:
    held_out = f", {len(rows.held_out)} held out" if rows.held_out else ""
    authors = ", ".join(f"{count} {who}" for who, count in rows.authors.items())
    return f"preferences: {len(rows.train)} rows to train on ({authors}){held_out}"


def _tensors(folder: Path) -> Path:
    """The file of the adapter's weights. Raises DlmError (AdapterError) if they are missing, damaged or not finite."""
    file = folder / TENSORS
    if not file.is_file():
        raise no_tensors(folder)
    try:
        broken = first_not_finite(file)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"The weights can't be read: {error}.", "Copy it again, or train again.", path=file
        ) from error
    if broken:
        raise AdapterError(f"{broken} is not finite.", "Train again, or name another adapter.", path=file)
    return file


def _adapter_config(folder: Path) -> PeftConfig:
    """The adapter's configuration. Raises DlmError (AdapterError) for one that can't have a frozen copy beside it."""
    config = PeftConfig.from_pretrained(str(folder))
    if type(config) is not LoraConfig:
        raise AdapterError(
            f"This adapter is {config.peft_type}, and preferences are trained on lora and dora adapters.",
            "Train one with recipes/sft.py, adapter: lora, and name it with adapter_from.",
            path=folder,
        )
    config.inference_mode = False
    return config


def _check_base(configuration: PreferenceConfiguration, base_model: str, steps: list[lineage.Step]) -> None:
    """Raises BaseModelError if the adapter isn't of the base that is set, or the base has changed since."""
    wanted, found = ModelRef(str(configuration.notes.base_model)), ModelRef(base_model)
    same_id = found.hub_id is not None and found.hub_id == wanted.hub_id
    if not same_id and wanted.record != found.record:
        raise BaseModelError(
            f"{configuration.settings['base_model'].source}: base_model is {wanted.name!r}, and the adapter in "
            f"{configuration.adapter_from} is of {found.name!r}.",
            hint="Name an adapter of this base with adapter_from, or set base_model to the adapter's.",
        )
    trained = lineage.last(steps, "train")
    recorded = trained["base_fingerprint"] if trained else None
    if recorded and (differing := lineage.differing(recorded, find_weights(base_model))):
        raise BaseModelError(
            f"{base_model!r} has changed since the adapter in {configuration.adapter_from} was trained on it: "
            f"{differing} differ.",
            hint="Train the adapter again.",
        )


def _questions_about(
    configuration: PreferenceConfiguration, steps: list[lineage.Step]
) -> tuple[EvaluationSpec, Document | None]:
    """How the run that made the adapter was evaluated, and the document whose pairs are asked again.

    That is this document if it has pairs, else the one that the adapter was trained on, if it still exists.
    """
    notes, document = configuration.notes, configuration.document
    trained = lineage.last(steps, "train")
    spec = EvaluationSpec(validation_fraction=notes.validation_fraction, seed=configuration.training.seed)
    if trained and trained.get("eval_spec"):
        try:
            spec = EvaluationSpec.from_record(trained["eval_spec"])
        except ValueError as error:
            raise lineage.lineage_error(configuration.adapter_from / lineage.FILE, f"its eval_spec: {error}") from error
    asked: Document | None = document
    if all(section.kind != "instruction" for section in document.sections):
        asked = read(spec.notes) if spec.notes and Path(spec.notes).is_file() else None
    if not configuration.settings["max_questions"].is_default:
        spec = replace(spec, max_questions=notes.max_questions)
    questions = absolute(notes.questions) or (spec.questions if Path(spec.questions or "").is_file() else None)
    path = str(asked.path) if asked else None
    return replace(spec, notes=absolute(path), adapter_name=notes.adapter_name, questions=questions), asked


def _adapter_arguments(base_model: str, config: PeftConfig | None, quantization: Any) -> AdapterArguments:
    """What the adapter is, in the words of recipes/sft.py."""
    if not isinstance(config, LoraConfig):
        return AdapterArguments(base_model=base_model)
    return AdapterArguments(
        base_model=base_model,
        adapter="dora" if config.use_dora else "qlora" if quantization else "lora",
        quantization=quantization,
        lora_r=config.r,
        lora_alpha=int(config.lora_alpha),
        lora_dropout=config.lora_dropout,
        target_modules=sorted(config.target_modules) if isinstance(config.target_modules, set) else None,
    )


def _own_output(configuration: PreferenceConfiguration, steps: list[lineage.Step]) -> Iterator[str]:
    """The start must stay: the reference is a copy of it, and a second run begins there again."""
    training, folder = configuration.training, configuration.adapter_from
    if Path(training.output_dir).resolve() == folder.resolve():
        source = configuration.settings["output_dir"].source
        yield f"{source}: output_dir is the adapter to start from, which the run would overwrite. Choose another one."
    start = (lineage.last(steps, "train") or {}).get("adapter_from")
    if start and configuration.settings["adapter_from"].is_default:
        yield (
            "The document's current adapter was trained on preferences already. Name the one to start from: "
            f"--adapter_from {start['folder']}, or {folder} to go on with this one."
        )


def _contradictions(configuration: PreferenceConfiguration) -> Iterator[str]:
    notes, training, settings = configuration.notes, configuration.training, configuration.settings
    for loss in training.loss_type:
        if loss not in LOSSES:
            yield f"{settings['loss_type'].source}: loss_type {loss!r} is unknown. DPOTrainer has {', '.join(LOSSES)}."
    if training.precompute_ref_log_probs and notes.reference == "base":
        yield "precompute_ref_log_probs computes them with the adapter: leave it out, or set reference: pre_adapter."
    if training.model_init_kwargs is not None:
        source = settings["model_init_kwargs"].source
        yield f"{source}: model_init_kwargs has no effect: the recipe loads the base itself. Leave it out."
    if notes.world_size is not None and notes.world_size != training.world_size:
        yield f"The run has {training.world_size} processes, and world_size asks for {notes.world_size}."


def _resume_settings(
    configuration: PreferenceConfiguration, base_model: str, weights: str, rows: PreferenceRows | None
) -> dict[str, Any]:
    """What decides how a run goes on from a checkpoint."""
    training = configuration.training
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    names = ("seed", "learning_rate", "max_length", "num_train_epochs", "loss_type", "beta")
    return {
        "base_model": base_model,
        "adapter_from": weights,
        "reference": configuration.notes.reference,
        "rows": len(rows.train) if rows else 0,
        "rows per step": per_step,
        "sharding": sharding(training),
        **{name: getattr(training, name) for name in names},
    }
