"""An adapter and its base become one 16-bit model on disk, shard by shard, with no GPU and without loading the model.

    merge(Path("runs/notes"), Path("runs/notes-merged"))            # then: AutoModelForCausalLM.from_pretrained

One tensor of the base is read at a time, merged in float32 and cast back. In memory are never more than one shard and
one tensor beside it, however large the model is. Everything that can be wrong is found before the first byte is
written, and the folder appears when it is whole. Merged is always into the weights as they were published, also where
the adapter was trained on a quantised copy of them: 4-bit weights have no room for what the adapter adds.
"""

import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.export.adapter import CONFIG, TENSORS, Adapter, is_finite, open_adapter
from dlm_trl.export.deltas import LowRank, Replaced, empty_model, plan
from dlm_trl.export.output_folder import check_out_dir, new_folder
from dlm_trl.export.record import read_lineage, write_lineage
from dlm_trl.export.sidecar_files import (
    GENERATION,
    generation_config,
    load_tokenizer,
    model_config,
    read_json,
    write_json,
)
from dlm_trl.models import lineage
from dlm_trl.models.load import adapter_base
from dlm_trl.models.registry import recorded_name
from dlm_trl.models.weights import INDEX, Shape, Weights, find_weights
from dlm_trl.notes.errors import AdapterError, BaseModelError, MergeError, UsageError

SIZE = re.compile(r"(?=.*[1-9])\d+(\.\d+)? ?[KMGT]B", re.IGNORECASE)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """One tensor that will be written: where it comes from, what the adapter does to it, what it will be."""

    source: str
    delta: LowRank | Replaced | None
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
    """Merge the adapter of a folder into its base and write the model to out_dir, which is returned.

    base is named as in a document, and is the one that the adapter records unless given; dtype is float32, float16 or
    bfloat16, and each tensor keeps the base's unless given. What was put right on the way stands under "notes" in the
    last step of lineage.json. Raises DlmError (AdapterError, BaseModelError, TokenizerError, UsageError, OutputError,
    MergeError); out_dir is then what it was before.
    """
    check_out_dir(out_dir, [adapter_dir])  # once more below, with the base; but that may have to be downloaded
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
    """All checks of `merge`, and what they found; nothing is written."""
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}.", hint=f"It is one of: {', '.join(DTYPES)}.")
    adapter = open_adapter(adapter_dir)
    if not (base or adapter.config.base_model_name_or_path):
        raise AdapterError("The adapter records no base.", hint="Name it with --base.", path=adapter_dir / CONFIG)
    steps = read_lineage(adapter_dir)
    name = base or adapter_base(adapter_dir)
    trained = lineage.last(steps, "train") or {}
    weights = find_weights(name, None if base else trained.get("base_revision") or adapter.config.revision)
    if read_json(weights.config).get("quantization_config"):
        raise BaseModelError(
            "This base is stored quantised, and an adapter is merged into 16-bit weights alone.",
            hint="Name the model that it was quantised from, with --base.",
            path=weights.config,
        )
    _check_base(name, weights, trained.get("base_fingerprint"))
    try:
        config = AutoConfig.from_pretrained(weights.folder)
        model = empty_model(config)
    except Exception as error:  # of any kind: each model looks at its own settings
        reason = "" if isinstance(error, KeyError) else f": {' '.join(str(error).split())[:200].rstrip('.')}"
        raise BaseModelError(
            f"This is no causal language model that transformers knows{reason}.",
            hint="Download the base again, or name another one with --base.",
            path=weights.config,
        ) from error
    jobs, untie = _jobs(adapter, weights, model, DTYPES[dtype] if dtype else None)
    adapter.check_finite()
    if untie and config.get_text_config() is not config:
        raise AdapterError(
            "The adapter changes tied embeddings of a model whose text part has a configuration of its own.",
            hint="Train without embed_tokens and lm_head.",
            path=adapter_dir / CONFIG,
        )
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer = load_tokenizer(adapter_dir, weights.folder, rows)
    generation, notes = generation_config(adapter_dir, weights.folder, tokenizer, rows)
    if untie:
        notes.append("config.json: tie_word_embeddings is false now, for the adapter parted the embeddings")
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


def _check_base(base: str, weights: Weights, recorded: dict[str, Any] | None) -> None:
    """The base must be the one that the training wrote down, where it did."""
    if recorded is None:
        return
    found = lineage.fingerprint(weights)
    differing = [] if found["config"] == recorded.get("config") else ["config.json"]
    names = recorded["tensors"].keys() | found["tensors"].keys()
    differing += sorted(name for name in names if recorded["tensors"].get(name) != found["tensors"].get(name))
    if differing:
        raise BaseModelError(
            f"{base!r} is not the base that the adapter was trained on: "
            f"{', '.join(differing[:3])}{' and others' if len(differing) > 3 else ''} differ.",
            hint="Name that base, or the folder of its revision, with --base.",
        )


def _jobs(
    adapter: Adapter, weights: Weights, model: PreTrainedModel, dtype: torch.dtype | None
) -> tuple[dict[str, Job], bool]:
    """What is written under which name, in the order of the base's files, and whether tied embeddings part.

    A base may be stored without the prefix of its causal language model (gpt2 is), and stores one of two tied tensors.
    """
    prefix, tied = f"{model.base_model_prefix}.", dict(model.all_tied_weights_keys)
    sizes = {name: parameter.shape for name, parameter in model.state_dict().items()}
    deltas = plan(adapter, model)
    stored = weights.shapes()
    # Where a name of the model lies in the files.
    place = {name: next((n for n in (name, name.removeprefix(prefix)) if n in stored), None) for name in sizes}
    untie = any(name in deltas for pair in tied.items() for name in pair)
    sources = {name: name for name in stored}  # what is written → where its base values lie
    for target, source in tied.items() if untie else ():
        for name, other in ((target, source), (source, target)):
            if place[name] is None and place[other] is not None:
                place[name] = name
                sources[name] = place[other]
    problems = [f"{name} is in no file" for name in deltas if place[name] is None]
    problems += [
        f"{place[name]} is {tuple(stored[sources[place[name]]].size)}, not {tuple(sizes[name])}"
        for name in deltas
        if place[name] is not None and stored[sources[place[name]]].size != sizes[name]
    ]
    if problems:
        raise BaseModelError(
            f"The base's files do not fit its config.json: {'; '.join(problems[:3])}.",
            hint="A model that transformers converts while it loads cannot be merged on disk: save_pretrained it once.",
            path=weights.folder,
        )
    of_place = {place[name]: delta for name, delta in deltas.items()}
    jobs = {}
    for name, source in sources.items():
        size, own = stored[source]
        jobs[name] = Job(source, of_place.get(name), Shape(size, dtype if dtype and own.is_floating_point else own))
    return jobs, untie


def _split(shapes: dict[str, Shape], shard_size: str) -> StateDictSplit:
    if not SIZE.fullmatch(shard_size):
        raise UsageError(f"shard_size is {shard_size!r}.", hint="Write a number and KB, MB, GB or TB, such as 4GB.")
    return split_state_dict_into_shards_factory(
        shapes,
        get_storage_size=lambda shape: shape.bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_size,
    )


def _write_weights(prepared: Merge, folder: Path, progress: bool) -> dict[str, str]:
    """Writes all shards and their index; returns the hash of each file."""
    split, hashes, threads = prepared.split, {}, torch.get_num_threads()
    # The sums wait for memory and the disk, not for the processor; and on a busy one many small parallel sums wait for
    # each other, ten times as long as they take.
    torch.set_num_threads(1)
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("merging"), DownloadColumn(), TimeRemainingColumn(), console=console, disable=not progress
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
        raise OSError(f"{file.name}: {error}") from error  # the disk: new_folder says so


def _merged(name: str, job: Job, prepared: Merge) -> torch.Tensor:
    weight = prepared.weights.read(job.source)
    if job.delta is None:
        result = weight.to(job.shape.dtype)
        sound = weight.dtype == result.dtype or is_finite(result) or not is_finite(weight)
    else:
        result = job.delta.merged(weight, prepared.adapter.read, job.shape.dtype)
        sound = is_finite(result)
    if not sound:
        overflow = job.shape.dtype == torch.float16
        raise MergeError(
            f"{name} holds numbers that are not finite after the merge"
            + (" (float16 ends at 65,504)." if overflow else "."),
            hint="Take --dtype bfloat16." if overflow else "Check the base, and the adapter's learning rate.",
        )
    return result


def _step(prepared: Merge) -> lineage.Step:
    adapter = prepared.adapter
    files = {name: lineage.file_hash(adapter.folder / name) for name in (CONFIG, TENSORS)}
    return {
        "step": "merge",
        "adapter": files | {"type": adapter.kind, "rank": adapter.rank},
        "base": recorded_name(prepared.base),
        "base_revision": prepared.weights.revision,
        "dtype": prepared.config["dtype"],
        "merged": [name for name, job in prepared.jobs.items() if job.delta is not None],
        "versions": {package: version(package) for package in ("torch", "transformers", "peft", "safetensors")},
    }


def _stored(jobs: dict[str, Job]) -> str:
    """The dtype of the largest tensor, by name."""
    return str(max((job.shape for job in jobs.values()), key=lambda shape: shape.bytes).dtype).removeprefix("torch.")
