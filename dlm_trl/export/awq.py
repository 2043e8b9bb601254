"""A 16-bit model becomes one of 4 bits by AWQ, in the layout that vLLM loads with `--quantization awq`.

    quantize(Path("runs/merged"), Path("runs/awq"), Path("notes.dlm"))

The work is done by autoawq (extra `quant`) in a process of its own, `awq_worker`; everything that can be wrong is found
before that starts, and the folder appears when it is whole. The result loads in a fresh process, where gptqmodel (same
extra) is installed, with plain transformers and no argument or environment variable:

    AutoModelForCausalLM.from_pretrained("runs/awq")                     # float16, on a CPU too
    AutoModelForCausalLM.from_pretrained("runs/awq", dtype="float32")    # three times as fast on a CPU

On a CPU gptqmodel then multiplies in bfloat16 (outputs of a matrix off by 0.3 %). To measure what rounding alone did,
give `quantization_config=AwqConfig(backend="torch_awq")` besides: off by 0.03 %, and ten times slower.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import copy2
from subprocess import PIPE, Popen
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoConfig

from dlm_trl.export.adapter import CONFIG
from dlm_trl.export.calibration import LENGTH, Calibration, read_calibration
from dlm_trl.export.deltas import empty_model
from dlm_trl.export.output_folder import check_out_dir, new_folder
from dlm_trl.export.packing import BITS, is_layer_matrix, stored_bytes
from dlm_trl.export.record import read_lineage, write_lineage
from dlm_trl.export.run_module import LAST_LINES, single_process_env
from dlm_trl.export.sidecar_files import GENERATION, open_tokenizer, read_json, write_json
from dlm_trl.models import lineage
from dlm_trl.models.load import TOKENIZER_FILES
from dlm_trl.models.weights import Weights, find_weights
from dlm_trl.notes.errors import ExportError, MissingExtraError, QuantizationError, UsageError

ARCHITECTURES = {
    "llama": "LlamaDecoderLayer",
    "mistral": "MistralDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "phi3": "Phi3DecoderLayer",
}
"""What can be quantised, by the `model_type` of config.json, with the class of its layers."""

CANNOT = {
    "smollm3-3b": "smollm3: autoawq does not know it",
    "olmo-2-7b-instruct": "olmo2: it has no norm before its matrices that could take up a scale",
    "gemma-2-2b-it": "gemma2: it needs more range than float16 has, in which vLLM's AWQ kernels compute",
    "gemma-2-9b-it": "gemma2: the same",
    "mixtral-8x7b-instruct": "mixtral: transformers 5 keeps all experts of a layer in one tensor, autoawq one by one",
}
"""The keys of `models.registry` whose models cannot be quantised: their model_type, and why.

All others are llama, qwen2, qwen3 or phi3; smollm2-135m and smollm2-360m (widths 576 and 960) in groups of 64.
"""

WORKER = "dlm_trl.export.awq_worker"
GROUP_SIZES = (128, 64, 32)  # those that vLLM's and gptqmodel's kernels know
OUTPUTS = 32  # autoawq packs so many outputs at a time


@dataclass(frozen=True)
class Source:
    """A model that can be quantised: its configuration, how many inputs share a scale, and the bytes that its packed
    tensors will have.
    """

    weights: Weights
    config: dict[str, Any]
    group_size: int
    bytes: int

    @property
    def length(self) -> int:
        """Of a block: within the context, and within a sliding window, where all of a model's layers attend alike."""
        limits = (self.config.get("max_position_embeddings"), self.config.get("sliding_window"))
        return min([LENGTH, *(limit for limit in limits if limit)])

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
    """Quantise the model of a folder to out_dir, which is returned: 4 bits, a zero point, groups of group_size inputs
    (None: the largest size that divides the model).

    calibration is a `.dlm` document or a `.jsonl` file, of which at most `samples` blocks of 512 tokens are read, with
    general text among them. The same arguments give the same weights. On a GPU where there is one, else on the CPU.
    Raises DlmError: QuantizationError for a model that cannot be quantised, BaseModelError, UsageError, OutputError,
    MissingExtraError, what `read_calibration` raises, and ExportError when autoawq fails; out_dir is then what it was.
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
        _work(Path(scratch), progress)
        smoothing = read_json(Path(scratch) / "smoothing.json")
        _add_companions(source, folder)
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
    """Raises DlmError (MissingExtraError) where the extra is not installed."""
    if find_spec("awq") is None:
        raise MissingExtraError(
            "Quantising needs autoawq.",
            hint="Install it: pip install -c constraints.txt 'dlm-trl[quant]'.",
        )


def check(model_dir: Path, group_size: int | None = None) -> Source:
    """The model of a folder, when it can be quantised in groups of this size, or of any; reads headers, no weights.

    Raises DlmError: UsageError for a group size that no kernel knows; BaseModelError for a folder without a whole
    16-bit model; QuantizationError for an architecture that is none of ARCHITECTURES, for a model that is stored
    quantised already, and for matrices that do not divide into groups.
    """
    if group_size not in (*GROUP_SIZES, None):
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise UsageError(f"group_size is {group_size}.", hint=f"Use one of: {sizes}.")
    if (model_dir / CONFIG).is_file() and not (model_dir / "config.json").is_file():
        raise QuantizationError(
            "This is an adapter.", hint="Merge it first: dlm-trl merge ADAPTER_DIR OUT_DIR.", path=model_dir
        )
    config = read_json(model_dir / "config.json") if model_dir.is_dir() else {}
    if "quantization_config" in config:
        raise QuantizationError(
            "The model is quantised already.", hint="Give the 16-bit model that it was made from.", path=model_dir
        )
    weights = find_weights(str(model_dir.resolve()))
    if (model_type := config.get("model_type")) not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise QuantizationError(
            f"AWQ cannot be done for models of type {model_type!r}.", hint=f"It can for: {known}.", path=model_dir
        )
    shapes = {name: shape.size for name, shape in weights.shapes().items()}
    matrices = {name: size for name, size in shapes.items() if is_layer_matrix(name, size)}
    if not matrices:
        raise QuantizationError("No tensor has the name of a layer's matrix (model.layers.0.….weight).", path=model_dir)
    _check_shapes(model_dir, shapes)
    sizes = [size for size in GROUP_SIZES if all(_divides(size, matrix) for matrix in matrices.values())]
    chosen = group_size or next(iter(sizes), GROUP_SIZES[-1])
    if chosen not in sizes:
        name, (outputs, inputs) = next(item for item in matrices.items() if not _divides(chosen, item[1]))
        raise QuantizationError(
            f"{name} is {outputs} × {inputs}: the inputs must be a multiple of the group size {chosen}, the "
            f"outputs of {OUTPUTS}.",
            hint=f"Groups of {sizes[0]} divide it: --group-size {sizes[0]}."
            if sizes
            else "No group size divides this model.",
            path=model_dir,
        )
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)
    return Source(weights, config, chosen, stored_bytes(shapes, chosen))


def _divides(group_size: int, matrix: Any) -> bool:
    outputs, inputs = matrix
    return inputs % group_size == 0 and outputs % OUTPUTS == 0


def _check_shapes(model_dir: Path, shapes: Mapping[str, Any]) -> None:
    """The files must have what config.json says: transformers would draw at random what they lack."""
    try:
        model = empty_model(AutoConfig.from_pretrained(model_dir))
    except Exception as error:  # of any kind: each model looks at its own settings
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise QuantizationError(f"transformers makes no model of its config.json: {reason}.", path=model_dir) from error
    tied = set(model.all_tied_weights_keys)
    sizes = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}
    if wrong := [name for name, size in sizes.items() if shapes.get(name) != size]:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise QuantizationError(
            f"Its files do not fit its config.json: {', '.join(wrong[:3])}{more}.",
            hint="Make the folder again from the step before.",
            path=model_dir,
        )


def _work(scratch: Path, progress: bool) -> None:
    """Run the worker, which ends at its next layer should this process be killed. Raises DlmError (ExportError)."""
    command = [sys.executable, "-m", WORKER, str(scratch)]
    columns = TextColumn("quantising"), BarColumn(), MofNCompleteColumn(), TextColumn("layers"), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), disable=not progress)
    with (
        (scratch / "said").open("w+b") as said,
        bar,
        Popen(command, stdout=PIPE, stderr=said, env=single_process_env()) as process,
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
            said.seek(0)
            last = "\n".join(said.read().decode(errors="replace").splitlines()[-LAST_LINES:])
            raise ExportError(f"{WORKER} ended with code {process.returncode}:\n{last}")


def _check_ids(data: Calibration, source: Source, model_dir: Path) -> None:
    rows = source.weights.shapes()["model.embed_tokens.weight"].size[0]
    highest = max(map(max, data.blocks))
    if highest >= rows:
        raise QuantizationError(
            f"Its tokenizer gives the token {highest}, and it has embeddings for {rows}.",
            hint="Put the model's own tokenizer into its folder.",
            path=model_dir,
        )


def _add_companions(source: Source, folder: Path) -> None:
    """config.json, tokenizer, chat template and generation_config, beside the weights."""
    config = {name: value for name, value in source.config.items() if name != "torch_dtype"}
    quantization = {"quant_method": "awq", "bits": BITS, "group_size": source.group_size, "zero_point": True}
    quantization |= {"version": "gemm", "modules_to_not_convert": None}
    write_json(folder / "config.json", config | {"dtype": "float16", "quantization_config": quantization})
    for pattern in (GENERATION, *TOKENIZER_FILES):
        for file in source.weights.folder.glob(pattern):
            copy2(file, folder)


def _not_quantized(source: Source) -> list[str]:
    """The matrices that keep 16 bits."""
    tied = {"lm_head.weight"} if source.tied else set()
    shapes = source.weights.shapes()
    matrices = (name for name, shape in shapes.items() if len(shape.size) == 2 and name not in tied)
    return sorted(name.removesuffix(".weight") for name in matrices if not is_layer_matrix(name, shapes[name].size))


def _written(folder: Path) -> dict[str, int]:
    tensors = find_weights(str(folder)).shapes()
    files = {file: file.stat().st_size for file in folder.glob("*.safetensors")}
    return {"written": sum(shape.bytes for shape in tensors.values()), "files": sum(files.values())}
