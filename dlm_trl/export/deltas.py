"""What an adapter does to each tensor of its base: a low-rank sum, with DoRA's magnitude or AdaLoRA's singular values
where it has them, or another tensor in its place.

    deltas = plan(adapter, model)                       # {"model.layers.0.mlp.up_proj.weight": LowRank(…), …}
    merged = deltas[name].merged(weight, adapter.read, torch.bfloat16)

Which module gets which rank and scale is PEFT's own answer: it lays the adapter on a model that has no weights. The
sums are done here, in float32 and a few rows at a time, so that a tensor never needs more than its result beside it.

Hu et al., LoRA, arXiv:2106.09685; Kalajdzievski, rsLoRA, arXiv:2312.03732; Liu et al., DoRA, arXiv:2402.09353; Zhang
et al., AdaLoRA, arXiv:2303.10512.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from accelerate import init_empty_weights
from peft import get_peft_model
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dlm_trl.export.adapter import CONFIG, TENSORS, Adapter
from dlm_trl.notes.errors import AdapterError

PREFIX = "base_model.model."  # of every name in an adapter's file
NAME = "default"  # under which PEFT holds the one adapter
BLOCK = 2**19  # numbers that are summed at a time: 2 MiB in float32, which stay in the processor's cache
Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class LowRank:
    """weight + scale · up @ down, where up (out, rank) and down (rank, in) are names in the adapter's file.

    singular (rank, 1) multiplies down (AdaLoRA). magnitude (out,) is the length of each row of the sum (DoRA).
    transposed: the base holds the weight as (in, out), as Conv1D and embeddings do. base: the weight itself is in the
    adapter's file too (PEFT saves embeddings along with what it adds to them), and counts.
    """

    up: str
    down: str
    scale: float
    transposed: bool
    singular: str | None = None
    magnitude: str | None = None
    base: str | None = None

    def merged(self, weight: Tensor, read: Read, dtype: torch.dtype) -> Tensor:
        """A new tensor of this dtype; weight is in any dtype and stays as it is."""
        up, down = read(self.up).float(), read(self.down).float()
        if self.base:
            weight = read(self.base)
        if self.singular:
            down = down * read(self.singular).float()
        left, right = (down.T, up.T) if self.transposed else (up, down)
        magnitude = read(self.magnitude).float() if self.magnitude else None
        if magnitude is not None and self.transposed:  # its rows lie across all blocks: a pass of its own for them
            squares = sum(block.square().sum(0, dtype=torch.float64) for _, block in self._sums(weight, left, right))
            magnitude = magnitude / squares.sqrt().float()
        result = torch.empty(weight.shape, dtype=dtype)
        for rows, block in self._sums(weight, left, right):
            if magnitude is not None:
                block *= magnitude if self.transposed else (magnitude[rows] / block.norm(dim=1))[:, None]
            result[rows] = block
        return result

    def _sums(self, weight: Tensor, left: Tensor, right: Tensor) -> Iterator[tuple[slice, Tensor]]:
        step = max(1, BLOCK // weight.shape[1])
        for start in range(0, len(weight), step):
            rows = slice(start, start + step)
            yield rows, torch.addmm(weight[rows].float(), left[rows], right, alpha=self.scale)


@dataclass(frozen=True)
class Replaced:
    """The adapter's own tensor stands in the weight's place: a bias or a module that was trained whole."""

    name: str

    def merged(self, weight: Tensor, read: Read, dtype: torch.dtype) -> Tensor:
        """A new tensor of this dtype; weight is not looked at."""
        return read(self.name).to(dtype)


Deltas = dict[str, LowRank | Replaced]


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """The causal language model of this configuration with no weights in it. Raises KeyError where there is none."""
    with init_empty_weights():
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)


def plan(adapter: Adapter, model: PreTrainedModel) -> Deltas:
    """What the adapter does to which of the model's parameters; model is `empty_model`'s, and is not fit for use after.

    Raises DlmError (AdapterError) for an adapter that was not made on such a model: target modules or tensors that it
    does not have, tensors of other sizes or too few of them, and modules of a kind that merging does not know.
    """
    parameters = {name: tensor.shape for name, tensor in model.state_dict().items()}
    config = copy.deepcopy(adapter.config)
    config.init_lora_weights = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's about tied weights and fan_in_fan_out: both are seen to
            adapted = get_peft_model(model, config, low_cpu_mem_usage=True).base_model.model
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise AdapterError(
            f"It does not fit the base: {reason}.",
            hint=f"Check {CONFIG}, or name the base that it was trained on, with --base.",
            path=adapter.folder,
        ) from error
    deltas: Deltas = {}
    expected: dict[str, torch.Size] = {}
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            deltas[f"{name}.weight"], shapes = _low_rank(adapter, name, module)
            expected |= shapes
        elif isinstance(module, ModulesToSaveWrapper):
            for part in module.original_module.state_dict():
                deltas[f"{name}.{part}"] = Replaced(f"{PREFIX}{name}.{part}")
                expected[f"{PREFIX}{name}.{part}"] = parameters[f"{name}.{part}"]
    for key in adapter.shapes.keys() - expected.keys():  # biases, and embeddings that PEFT saves along
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        delta = deltas.get(name)
        if name not in parameters or isinstance(delta, Replaced):
            continue
        deltas[name] = replace(delta, base=key) if delta else Replaced(key)
        expected[key] = parameters[name]
    _check_fit(adapter, expected)
    return deltas


def _low_rank(adapter: Adapter, name: str, module: LoraLayer) -> tuple[LowRank, dict[str, torch.Size]]:
    """What one module's adapter does, and the shapes that its tensors must have."""
    key, base = PREFIX + name, module.get_base_layer()
    # PEFT's classes themselves: a subclass may sum in another way.
    if type(module) not in (Linear, SVDLinear, Embedding) or not isinstance(base, nn.Linear | Conv1D | nn.Embedding):
        raise AdapterError(
            f"Merging does not know adapters on {type(base).__name__} ({name}).",
            hint="It does Linear, Conv1D and Embedding.",
            path=adapter.folder / CONFIG,
        )
    rank, scale = module.r[NAME], module.scaling[NAME]
    if type(module) is Embedding:
        up, down, outputs, inputs = f"{key}.lora_embedding_B", f"{key}.lora_embedding_A", *base.weight.shape[::-1]
    else:
        end = "" if type(module) is SVDLinear else ".weight"
        up, down, outputs, inputs = f"{key}.lora_B{end}", f"{key}.lora_A{end}", module.out_features, module.in_features
    singular = magnitude = None
    if type(module) is SVDLinear:
        singular = f"{key}.lora_E"
        scale /= rank + 1e-5  # PEFT's, and by the rank before pruning
        kept = (adapter.config.rank_pattern or {}).get(f"{name}.lora_E")
        rank = rank if kept is None else sum(kept)
    if NAME in module.lora_magnitude_vector:
        magnitude = f"{key}.lora_magnitude_vector"
    shapes = {up: (outputs, rank), down: (rank, inputs), singular: (rank, 1), magnitude: (outputs,)}
    delta = LowRank(up, down, scale, not isinstance(base, nn.Linear), singular, magnitude)
    return delta, {name: torch.Size(size) for name, size in shapes.items() if name is not None}


def _check_fit(adapter: Adapter, expected: Mapping[str, torch.Size]) -> None:
    problems = [f"{name} has no place in the base" for name in sorted(adapter.shapes.keys() - expected.keys())]
    problems += [f"{name} is missing" for name in expected if name not in adapter.shapes]
    wrong = [name for name in expected if adapter.shapes.get(name, expected[name]) != expected[name]]
    problems += [f"{name} is {tuple(adapter.shapes[name])}, not {tuple(expected[name])}" for name in wrong]
    if not problems:
        return
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    embeddings = any("embed" in name or "lm_head" in name for name in wrong)
    raise AdapterError(
        f"The adapter's tensors do not fit the base: {'; '.join(problems[:3])}{more}.",
        hint="The vocabulary was resized for training; resize the base's the same way."
        if embeddings
        else "Name the base that the adapter was trained on.",
        path=adapter.folder / TENSORS,
    )
