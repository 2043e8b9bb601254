"""Merge an adapter into its base on disk, shard by shard, without a GPU and without loading the whole model.

    merge(Path("runs/notes"), Path("runs/notes-merged"))            # then: AutoModelForCausalLM.from_pretrained

Reads one tensor of the base at a time, merges it in float32 and casts it back. However large the model, only one shard
and one more tensor are in memory. All checks run before the first byte is written, and the folder appears only when
complete. The merge always uses the weights as published, even if the adapter was trained on a quantised copy: 4-bit
weights are too coarse for what the adapter adds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.export.adapter import CONFIG, Adapter, open_adapter
from dlm_trl.export.deltas import Delta, Deltas, plan
from dlm_trl.export.output_folder import check_out_dir, new_folder
from dlm_trl.export.record import read_lineage, write_lineage
from dlm_trl.export.sidecar_files import (
    GENERATION,
    generation_config,
    load_tokenizer,
    model_config,
    quantization_config,
    write_json,
)
from dlm_trl.models import lineage
from dlm_trl.models.layout import Part, empty_model, storage_problems, stored_parts
from dlm_trl.models.load import TENSORS, adapter_base
from dlm_trl.models.registry import ModelRef
from dlm_trl.models.weights import INDEX, Shape, Weights, find_weights, is_finite
from dlm_trl.notes.errors import AdapterError, BaseModelError, MergeError, UsageError
from dlm_trl.notes.terminal import console

SIZE = re.compile(r"(?=.*[1-9])\d+(\.\d+)? ?[KMGT]B", re.IGNORECASE)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """One tensor to write: its name in the base, what the adapter changes, and its final shape and dtype.

    part: which part of the changed parameter it is; None without a delta.
    """

    source: str
    delta: Delta | None
    part: Part | None
    shape: Shape


@dataclass(frozen=True)
class Merge:
    """Everything that is known before the first tensor is read."""

    adapter: Adapter
    weights: Weights
    base: str
    jobs: dict[str, Job]
    split: StateDictSplit
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    steps: list[lineage.Step]
    notes: list[str]


def merge(
    adapter_dir: Path,
    out_dir: Path,
    base: str | None = None,
    shard_size: str = "4GB",
    dtype: str | None = None,
    progress: bool = False,
) -> Path:
    """Merge the adapter in a folder into its base and write the model to out_dir; returns out_dir.

    base: a name as in a document, by default the one that the adapter records. dtype: float32, float16 or bfloat16, by
    default the base's for each tensor. Corrections to the files are listed under "notes" in the last step of
    lineage.json. Raises DlmError (AdapterError, BaseModelError, TokenizerError, UsageError, OutputError, MergeError)
    and leaves out_dir unchanged.
    """
    check_out_dir(out_dir, [adapter_dir])  # again below with the base, which may have to be downloaded first
    prepared = prepare(adapter_dir, base, shard_size, dtype)
    needed = sum(job.shape.bytes for job in prepared.jobs.values())
    inputs = [adapter_dir, prepared.weights.folder]
    with new_folder(out_dir, inputs, needed) as folder:
        step = _step(prepared) | {"shards": _write_weights(prepared, folder, progress), "notes": prepared.notes}
        write_json(folder / "config.json", prepared.config)
        write_json(folder / GENERATION, prepared.generation)
        prepared.tokenizer.save_pretrained(folder)
        steps = [*prepared.steps, step]
        write_lineage(folder, steps, str(out_dir))
    return out_dir


def prepare(adapter_dir: Path, base: str | None = None, shard_size: str = "4GB", dtype: str | None = None) -> Merge:
    """Run all checks of `merge` and plan its work; writes nothing."""
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}.", hint=f"Use one of: {', '.join(DTYPES)}.")
    adapter = open_adapter(adapter_dir)
    if not (base or adapter.config.base_model_name_or_path):
        raise AdapterError("The adapter records no base.", hint="Give it with --base.", path=adapter_dir / CONFIG)
    steps = read_lineage(adapter_dir)
    name = base or adapter_base(adapter_dir)
    trained = lineage.last(steps, "train") or {}
    weights = find_weights(name, None if base else trained.get("base_revision") or adapter.config.revision)
    check_stored_16bit(weights.folder)
    _check_base(name, weights, trained.get("base_fingerprint"))
    try:
        config = AutoConfig.from_pretrained(weights.folder)
        model = empty_model(config)
    except Exception as error:  # each model's configuration raises its own kinds
        reason = "" if isinstance(error, KeyError) else f": {' '.join(str(error).split())[:200].rstrip('.')}"
        raise BaseModelError(
            f"transformers has no causal language model for this configuration{reason}.",
            hint="Download the base again, or give another one with --base.",
            path=weights.config,
        ) from error
    jobs, untie = _jobs(adapter, weights, model, DTYPES[dtype] if dtype else None)
    adapter.check_finite()
    if untie and config.get_text_config() is not config:
        raise AdapterError(
            "The adapter changes tied embeddings of a model with a separate text configuration.",
            hint="Train without embed_tokens and lm_head.",
            path=adapter_dir / CONFIG,
        )
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer = load_tokenizer(adapter_dir, weights.folder, rows)
    generation, notes = generation_config(adapter_dir, weights.folder, tokenizer, rows)
    if untie:
        notes.append(
            "config.json: tie_word_embeddings is now false, since the adapter changes the embeddings separately"
        )
    return Merge(
        adapter=adapter,
        weights=weights,
        base=name,
        jobs=jobs,
        split=_split({name: job.shape for name, job in jobs.items()}, shard_size),
        config=model_config(weights.folder, type(model).__name__, _stored(jobs), dtype, untie),
        generation=generation,
        tokenizer=tokenizer,
        steps=steps,
        notes=notes,
    )


def check_stored_16bit(base: Path) -> None:
    """Raises DlmError (BaseModelError) if the base in this folder is stored quantised."""
    if quantization_config(base):
        raise BaseModelError(
            "This base is stored quantised, and merging needs 16-bit weights.",
            hint="Give the model it was quantised from with --base.",
            path=base / "config.json",
        )


def _check_base(base: str, weights: Weights, recorded: dict[str, Any] | None) -> None:
    """Compare the base with the fingerprint that training recorded, if it did."""
    if recorded is None:
        return
    if differing := lineage.differing(recorded, weights):
        raise BaseModelError(
            f"{base!r} isn't the base that the adapter was trained on: {differing} differ.",
            hint="Give that base, or the folder of its revision, with --base.",
        )


def _jobs(
    adapter: Adapter, weights: Weights, model: PreTrainedModel, dtype: torch.dtype | None
) -> tuple[dict[str, Job], bool]:
    """The tensors to write by name, in the order of the base's files, and whether tied embeddings become separate.

    A base may be stored under other names than the model's, expert by expert, and with one of two tied tensors.
    """
    sizes, tied = {name: tensor.shape for name, tensor in model.state_dict().items()}, dict(model.all_tied_weights_keys)
    stored = weights.shapes()
    parts = stored_parts(model, stored)
    deltas = plan(adapter, model)
    sources = {name: name for name in stored}  # name to write → name in the base's files
    untie = any(name in deltas for pair in tied.items() for name in pair)
    if untie:
        found = {part.parameter: name for name, part in parts.items()}
        for name, other in [*tied.items(), *((source, target) for target, source in tied.items())]:
            if name not in found and other in found:
                parts[name], sources[name] = Part(name), found[other]
    _check_stored(deltas, parts, {name: stored[source].size for name, source in sources.items()}, sizes, weights.folder)
    jobs = {}
    for name, source in sources.items():
        size, own = stored[source]
        shape = Shape(size, dtype if dtype and own.is_floating_point else own)
        part = parts.get(name)
        jobs[name] = Job(source, deltas.get(part.parameter) if part else None, part, shape)
    return jobs, untie


def _check_stored(
    deltas: Deltas,
    parts: Mapping[str, Part],
    stored: Mapping[str, torch.Size],
    sizes: Mapping[str, torch.Size],
    folder: Path,
) -> None:
    """Whether every parameter that the adapter changes can be written back to the files of the base.

    parts and stored: the tensors in the files. sizes: the model's parameters.
    """
    problems = [f"{name} {reason}" for name, reason in storage_problems(deltas, parts, sizes).items()]
    for name, part in parts.items():
        if part.parameter in deltas and not problems:
            size = sizes[part.parameter]
            if part.expert is not None:
                size = torch.Size((size[1] // part.pieces, *size[2:]))
            if stored[name] != size:
                problems.append(f"{name} is {tuple(stored[name])}, not {tuple(size)}")
    if problems:
        raise BaseModelError(
            f"The base's files don't fit its config.json: {'; '.join(problems[:3])}.",
            hint="Download the base again, or train without these modules (target_modules).",
            path=folder,
        )


def _split(shapes: dict[str, Shape], shard_size: str) -> StateDictSplit:
    if not SIZE.fullmatch(shard_size):
        raise UsageError(f"shard_size is {shard_size!r}.", hint="Use a number with KB, MB, GB or TB, such as 4GB.")
    return split_state_dict_into_shards_factory(
        shapes,
        get_storage_size=lambda shape: shape.bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_size,
    )


def _write_weights(prepared: Merge, folder: Path, progress: bool) -> dict[str, str]:
    """Write all shards and their index; returns the hash of each file."""
    split, hashes, threads = prepared.split, {}, torch.get_num_threads()
    # Memory and disk are the bottleneck, not the CPU. On a busy CPU, many small parallel sums wait for each other, and
    # take ten times as long.
    torch.set_num_threads(1)
    bar = Progress(
        TextColumn("merging"),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        disable=not progress,
    )
    try:
        with bar:
            task = bar.add_task("merging", total=sum(job.shape.bytes for job in prepared.jobs.values()))
            for file, names in split.filename_to_tensors.items():
                _write_shard(prepared, folder / file, names, bar, task)
                hashes[file] = lineage.file_hash(folder / file)
    finally:
        torch.set_num_threads(threads)
    if split.is_sharded:
        write_json(folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    return hashes


def _write_shard(prepared: Merge, file: Path, names: list[str], bar: Progress, task: TaskID) -> None:
    shard = {}
    for name in names:
        job = prepared.jobs[name]
        shard[name] = _merged(name, job, prepared)
        bar.advance(task, job.shape.bytes)
    try:
        save_file(shard, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file.name}: {error}") from error  # new_folder reports it as a disk error


def _merged(name: str, job: Job, prepared: Merge) -> torch.Tensor:
    weight = prepared.weights.read(job.source)
    if job.delta is None or job.part is None:
        result = weight.to(job.shape.dtype)
        valid = weight.dtype == result.dtype or is_finite(result) or not is_finite(weight)
    else:
        result = job.delta.merged(weight, prepared.adapter.read, job.shape.dtype, job.part)
        valid = is_finite(result)
    if not valid:
        half = job.shape.dtype == torch.float16
        raise MergeError(
            f"After the merge, {name} has values that aren't finite" + (" (float16 ends at 65,504)." if half else "."),
            hint="Use --dtype bfloat16." if half else "Check the base and the adapter's learning rate.",
        )
    return result


def _step(prepared: Merge) -> lineage.Step:
    adapter = prepared.adapter
    files = {name: lineage.file_hash(adapter.folder / name) for name in (CONFIG, TENSORS)}
    return {
        "step": "merge",
        "adapter": files | {"type": adapter.kind, "rank": adapter.rank},
        "base": ModelRef(prepared.base).record,
        "base_revision": prepared.weights.revision,
        "dtype": prepared.config["dtype"],
        "merged": [name for name, job in prepared.jobs.items() if job.delta is not None],
        "versions": {package: version(package) for package in ("torch", "transformers", "peft", "safetensors")},
    }


def _stored(jobs: dict[str, Job]) -> str:
    """The name of the largest tensor's dtype."""
    return str(max((job.shape for job in jobs.values()), key=lambda shape: shape.bytes).dtype).removeprefix("torch.")
