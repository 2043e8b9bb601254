"""Quantise a 16-bit model to 4 bits with AWQ, in the layout that vLLM loads with `--quantization awq`.

    quantize(Path("runs/merged"), Path("runs/awq"), Path("notes.dlm"))

autoawq (extra `quant`) does the work in a separate process, `awq_worker`. All checks run before it starts, and the
folder appears only when complete. The result loads with plain transformers if gptqmodel (same extra) is installed:

    AutoModelForCausalLM.from_pretrained("runs/awq")                     # float16, on a CPU too
    AutoModelForCausalLM.from_pretrained("runs/awq", dtype="float32")    # three times as fast on a CPU

On a CPU, gptqmodel then multiplies in bfloat16 (0.3 % error in a matrix's outputs). To measure rounding alone, also
pass `quantization_config=AwqConfig(backend="torch_awq")`: 0.03 % error, ten times slower.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import copy2
from subprocess import PIPE, Popen
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoConfig

from dlm_trl.export.adapter import is_adapter
from dlm_trl.export.calibration import LENGTH, Calibration, read_calibration
from dlm_trl.export.output_folder import check_out_dir, new_folder
from dlm_trl.export.packing import BITS, is_layer_matrix, stored_bytes
from dlm_trl.export.record import read_lineage, write_lineage
from dlm_trl.export.run_module import LAST_LINES, failure, single_process_env
from dlm_trl.export.sidecar_files import GENERATION, open_tokenizer, read_json, write_json
from dlm_trl.models import lineage
from dlm_trl.models.layout import empty_model
from dlm_trl.models.load import TOKENIZER_FILES
from dlm_trl.models.weights import Weights, find_weights
from dlm_trl.notes.errors import QuantizationError, UsageError
from dlm_trl.notes.extras import require_extra
from dlm_trl.notes.terminal import console

ARCHITECTURES = {
    "llama": "LlamaDecoderLayer",
    "mistral": "MistralDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "phi3": "Phi3DecoderLayer",
}
"""Supported values of `model_type` in config.json, with the class of the layers."""

CANNOT = {
    "smollm3-3b": "smollm3: autoawq doesn't support it",
    "olmo-2-7b-instruct": "olmo2: there is no norm before its matrices to absorb the scales",
    "gemma-2-2b-it": "gemma2: it overflows float16, which vLLM's AWQ kernels compute in",
    "gemma-2-9b-it": "gemma2: it overflows float16 too",
    "mixtral-8x7b-instruct": "mixtral: transformers 5 keeps the experts in one tensor, autoawq needs one for each",
}
"""Keys of `models.registry` whose models can't be quantised, with their model_type and the reason.

All others are llama, qwen2, qwen3 or phi3. smollm2-135m and smollm2-360m (widths 576 and 960) need groups of 64.
"""

WORKER = "dlm_trl.export.awq_worker"
GROUP_SIZES = (128, 64, 32)  # supported by the kernels of vLLM and gptqmodel
OUTPUTS = 32  # autoawq packs this many outputs at a time


@dataclass(frozen=True)
class Source:
    """A model that can be quantised. group_size: inputs that share a scale; bytes: the size of its packed tensors."""

    weights: Weights
    config: dict[str, Any]
    group_size: int
    bytes: int

    @property
    def length(self) -> int:
        """Tokens of a calibration block: within the context and the sliding window, where all layers attend alike."""
        limits = (self.config.get("max_position_embeddings"), self.config.get("sliding_window"))
        return min([LENGTH, *(int(limit) for limit in limits if limit)])

    @property
    def tied(self) -> bool:
        return bool(self.config.get("tie_word_embeddings"))


def quantize(
    model_dir: Path,
    out_dir: Path,
    calibration: Path,
    group_size: int | None = None,
    samples: int = 128,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Quantise the model in a folder to 4 bits with zero points, and write it to out_dir; returns out_dir.

    calibration: a `.dlm` document or a `.jsonl` file; at most `samples` blocks of 512 tokens are used, some of them
    general text. group_size: inputs that share a scale, by default the largest size that divides the model. The same
    arguments give the same weights. Uses a GPU if there is one.

    Raises DlmError: QuantizationError for a model that can't be quantised, BaseModelError, UsageError, OutputError,
    MissingExtraError, what `read_calibration` raises, and ExportError if autoawq fails. out_dir is then unchanged.
    """
    model_dir = model_dir.expanduser().resolve()
    source = check(model_dir, group_size)
    check_out_dir(out_dir, [model_dir], source.bytes)
    steps = read_lineage(model_dir)
    if (model_dir / GENERATION).is_file():
        read_json(model_dir / GENERATION)
    data = read_calibration(calibration, open_tokenizer(model_dir), samples, seed, source.length)
    _check_ids(data, source, model_dir)
    check_installed()
    with new_folder(out_dir, [model_dir], source.bytes) as folder, tempfile.TemporaryDirectory() as scratch:
        job = {"model": str(model_dir), "out": str(folder), "blocks": data.blocks, "group_size": source.group_size}
        write_json(Path(scratch) / "job.json", job | {"seed": seed})
        _run_worker(Path(scratch), progress)
        smoothing = read_json(Path(scratch) / "smoothing.json")
        _add_sidecar_files(source, folder)
        step = {
            "step": "awq",
            "calibration": {
                "file": str(calibration.resolve()),
                "sha256": lineage.file_hash(calibration),
                "samples": samples,
                "seed": seed,
                "length": source.length,
                "rows": data.rows,
                "held_out_rows": data.held_out_rows,
                "tokens": data.tokens,
                "general_tokens": data.general_tokens,
            },
            "bits": BITS,
            "group_size": source.group_size,
            "version": "gemm",
            "smoothed": sum(group["scales"]["min"] < group["scales"]["max"] for group in smoothing.values()),
            "smoothing": smoothing,
            "not_quantized": _not_quantized(source),
            "bytes": {"predicted": source.bytes, **_written(folder)},
            "shards": {file.name: lineage.file_hash(file) for file in sorted(folder.glob("*.safetensors"))},
            "versions": {name: version(name) for name in ("autoawq", "torch", "transformers")},
        }
        steps.append(step)
        write_lineage(folder, steps, str(out_dir))
    return out_dir


def check_installed() -> None:
    """Raises DlmError (MissingExtraError) if the extra isn't installed."""
    require_extra("quant", "Quantising")


def check(model_dir: Path, group_size: int | None = None) -> Source:
    """Check that the model in a folder can be quantised; reads headers, not weights.

    group_size: None for the largest that divides the model. Raises DlmError: UsageError for an unsupported group size;
    BaseModelError for a missing or incomplete model; QuantizationError for an architecture not in ARCHITECTURES, for a
    quantised model, and for matrices that don't divide into groups.
    """
    if group_size not in (*GROUP_SIZES, None):
        supported = ", ".join(map(str, GROUP_SIZES))
        raise UsageError(f"group_size is {group_size}.", hint=f"Use one of: {supported}.")
    if is_adapter(model_dir) and not (model_dir / "config.json").is_file():
        raise QuantizationError(
            "This is an adapter.", hint="Merge it first: dlm-trl merge ADAPTER_DIR OUT_DIR.", path=model_dir
        )
    config = read_json(model_dir / "config.json") if model_dir.is_dir() else {}
    if "quantization_config" in config:
        raise QuantizationError(
            "The model is already quantised.", hint="Give the 16-bit model it was made from.", path=model_dir
        )
    weights = find_weights(str(model_dir.resolve()))
    if (model_type := config.get("model_type")) not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise QuantizationError(
            f"AWQ doesn't support models of type {model_type!r}.", hint=f"It supports: {known}.", path=model_dir
        )
    shapes = {name: shape.size for name, shape in weights.shapes().items()}
    matrices = {name: size for name, size in shapes.items() if is_layer_matrix(name, size)}
    if not matrices:
        raise QuantizationError("No tensor is named like a layer's matrix (model.layers.0.….weight).", path=model_dir)
    _check_shapes(model_dir, shapes)
    sizes = [size for size in GROUP_SIZES if all(_divides(size, matrix) for matrix in matrices.values())]
    chosen = group_size or next(iter(sizes), GROUP_SIZES[-1])
    if chosen not in sizes:
        name, (outputs, inputs) = next(item for item in matrices.items() if not _divides(chosen, item[1]))
        raise QuantizationError(
            f"{name} is {outputs} × {inputs}: the inputs must be a multiple of the group size {chosen}, and the "
            f"outputs a multiple of {OUTPUTS}.",
            hint=f"Use --group-size {sizes[0]}." if sizes else "No group size divides this model.",
            path=model_dir,
        )
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)
    return Source(weights, config, chosen, stored_bytes(shapes, chosen))


def _divides(group_size: int, matrix: torch.Size) -> bool:
    outputs, inputs = matrix
    return bool(inputs % group_size == 0 and outputs % OUTPUTS == 0)


def _check_shapes(model_dir: Path, shapes: Mapping[str, Any]) -> None:
    """The files must fit config.json: transformers would initialise missing tensors at random."""
    try:
        model = empty_model(AutoConfig.from_pretrained(model_dir))
    except Exception as error:  # each model's configuration raises its own kinds
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise QuantizationError(
            f"transformers can't build a model from config.json: {reason}.", path=model_dir
        ) from error
    tied = set(model.all_tied_weights_keys)
    sizes = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}
    if wrong := [name for name, size in sizes.items() if shapes.get(name) != size]:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise QuantizationError(
            f"The weight files don't fit config.json: {', '.join(wrong[:3])}{more}.",
            hint="Merge the model again.",
            path=model_dir,
        )


def _run_worker(scratch: Path, progress: bool) -> None:
    """Run the worker; it exits at its next layer if this process is killed. Raises DlmError (ExportError)."""
    command = [sys.executable, "-m", WORKER, str(scratch)]
    columns = TextColumn("quantising"), BarColumn(), MofNCompleteColumn(), TextColumn("layers"), TimeRemainingColumn()
    bar = Progress(*columns, console=console(stderr=True), disable=not progress)
    with (
        (scratch / "stderr").open("w+b") as stderr,
        bar,
        Popen(command, stdout=PIPE, stderr=stderr, env=single_process_env()) as process,
    ):
        assert process.stdout is not None
        task = bar.add_task("", total=None)
        try:
            for line in process.stdout:
                done, total = map(int, line.split())
                bar.update(task, completed=done, total=total)
            process.wait()
        finally:
            process.kill()
        if process.returncode:
            stderr.seek(0)
            last_lines = stderr.read().decode(errors="replace").splitlines()[-LAST_LINES:]
            raise failure(WORKER, process.returncode, last_lines)


def _check_ids(data: Calibration, source: Source, model_dir: Path) -> None:
    rows = source.weights.shapes()["model.embed_tokens.weight"].size[0]
    highest = max(map(max, data.blocks))
    if highest >= rows:
        raise QuantizationError(
            f"The tokenizer gives token {highest}, and the model has embeddings for {rows} tokens.",
            hint="Copy the model's own tokenizer into its folder.",
            path=model_dir,
        )


def _add_sidecar_files(source: Source, folder: Path) -> None:
    """Add config.json, tokenizer, chat template and generation_config.json to the weights."""
    config = {name: value for name, value in source.config.items() if name != "torch_dtype"}
    quantization = {"quant_method": "awq", "bits": BITS, "group_size": source.group_size, "zero_point": True}
    quantization |= {"version": "gemm", "modules_to_not_convert": None}
    write_json(folder / "config.json", config | {"dtype": "float16", "quantization_config": quantization})
    for pattern in (GENERATION, *TOKENIZER_FILES):
        for file in source.weights.folder.glob(pattern):
            copy2(file, folder)


def _not_quantized(source: Source) -> list[str]:
    """The matrices that stay in 16 bits."""
    tied = {"lm_head.weight"} if source.tied else set()
    shapes = source.weights.shapes()
    matrices = (name for name, shape in shapes.items() if len(shape.size) == 2 and name not in tied)
    return sorted(name.removesuffix(".weight") for name in matrices if not is_layer_matrix(name, shapes[name].size))


def _written(folder: Path) -> dict[str, int]:
    tensors = find_weights(str(folder)).shapes()
    files = {file: file.stat().st_size for file in folder.glob("*.safetensors")}
    return {"written": sum(shape.bytes for shape in tensors.values()), "files": sum(files.values())}
