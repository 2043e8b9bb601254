"""What an adapter changes in each parameter of its base: it adds a low-rank product (with DoRA's magnitude or AdaLoRA's
singular values) to it or to each of its experts, or replaces it.

    deltas = plan(adapter, model)                       # {"model.layers.0.mlp.up_proj.weight": LowRank(…), …}
    merged = deltas[name].merged(weight, adapter.read, torch.bfloat16, part)

PEFT decides which module gets which rank and scale: the adapter is applied to a model without weights. The sums are
computed here, in float32 and a few rows at a time, so merging a tensor only needs memory for its result.

Hu et al., LoRA, arXiv:2106.09685; Kalajdzievski, rsLoRA, arXiv:2312.03732; Liu et al., DoRA, arXiv:2402.09353; Zhang
et al., AdaLoRA, arXiv:2303.10512.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from peft import get_peft_model
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora import Embedding, LoraLayer, ParamWrapper
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from dlm_trl.export.adapter import CONFIG, Adapter
from dlm_trl.models.layout import Part, adapted_parameter, is_mergeable
from dlm_trl.models.load import TENSORS
from dlm_trl.notes.errors import AdapterError

PREFIX = "base_model.model."  # of all names in an adapter's file
NAME = "default"  # PEFT's name for the only adapter
BLOCK = 2**19  # values to sum at a time: 2 MiB in float32, which fit in the CPU's cache
Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class LowRank:
    """weight + scale · up @ down, with the names of up (out, rank) and down (rank, in) in the adapter's file.

    singular (rank, 1) multiplies down (AdaLoRA). magnitude (out,) is the norm of each row of the sum (DoRA).
    transposed: the base stores the weight as (in, out), like Conv1D and embeddings. base: the name of the weight itself
    in the adapter's file, used instead of the base's (PEFT saves embeddings together with their LoRA matrices).
    """

    up: str
    down: str
    scale: float
    transposed: bool
    singular: str | None = None
    magnitude: str | None = None
    base: str | None = None

    def merged(self, weight: Tensor, read: Read, dtype: torch.dtype, part: Part) -> Tensor:
        """A new tensor of this dtype; weight, the whole parameter, can have any dtype and isn't changed."""
        up, down = read(self.up).float(), read(self.down).float()
        if self.base:
            weight = read(self.base)
        if self.singular:
            down = down * read(self.singular).float()
        left, right = (down.T, up.T) if self.transposed else (up, down)
        magnitude = read(self.magnitude).float() if self.magnitude else None
        if (
            magnitude is not None and self.transposed
        ):  # rows of the sum are spread over all blocks, so take their norms first
            blocks = _sums(weight, left, right, self.scale)
            squares = sum(block.square().sum(0, dtype=torch.float64) for _, block in blocks)
            magnitude = magnitude / squares.sqrt().float()
        result = torch.empty(weight.shape, dtype=dtype)
        for rows, block in _sums(weight, left, right, self.scale):
            if magnitude is not None:
                block *= magnitude if self.transposed else (magnitude[rows] / block.norm(dim=1))[:, None]
            result[rows] = block
        return result


@dataclass(frozen=True)
class ExpertsLowRank:
    """weight[e] + scale · up[e] @ down[e] for each expert e of a parameter (experts, out, in).

    In the adapter's file, up is (out, rank · experts) with all experts of a rank side by side, and down is
    (experts · rank, in). transposed: the parameter is (experts, in, out).
    """

    up: str
    down: str
    scale: float
    transposed: bool
    experts: int

    def merged(self, weight: Tensor, read: Read, dtype: torch.dtype, part: Part) -> Tensor:
        """A new tensor of this dtype. weight: all experts (experts, rows, columns), or the part's rows of one."""
        up, down = read(self.up), read(self.down)
        up = up.view(len(up), -1, self.experts)
        down = down.view(self.experts, -1, down.shape[-1])
        result = torch.empty(weight.shape, dtype=dtype)
        for expert in range(self.experts) if part.expert is None else [part.expert]:
            left, right = up[:, :, expert].float(), down[expert].float()
            if self.transposed:
                left, right = right.T, left.T
            left = left.chunk(part.pieces)[part.piece]
            one, out = (weight[expert], result[expert]) if part.expert is None else (weight, result)
            for rows, block in _sums(one, left, right, self.scale):
                out[rows] = block
        return result


@dataclass(frozen=True)
class Replaced:
    """The adapter's tensor replaces the weight: a bias, or a module that was trained in full."""

    name: str

    def merged(self, weight: Tensor, read: Read, dtype: torch.dtype, part: Part) -> Tensor:
        """A new tensor of this dtype; weight is ignored."""
        tensor = read(self.name)
        if part.expert is not None:
            tensor = tensor[part.expert].chunk(part.pieces)[part.piece]
        return tensor.to(dtype)


Delta = LowRank | ExpertsLowRank | Replaced
Deltas = dict[str, Delta]


def _sums(weight: Tensor, left: Tensor, right: Tensor, scale: float) -> Iterator[tuple[slice, Tensor]]:
    """weight + scale · left @ right, in float32 and a few rows at a time."""
    step = max(1, BLOCK // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        yield rows, torch.addmm(weight[rows].float(), left[rows], right, alpha=scale)


def plan(adapter: Adapter, model: PreTrainedModel) -> Deltas:
    """What the adapter changes, by parameter name. model comes from `layout.empty_model`, and isn't usable
    afterwards.

    Raises DlmError (AdapterError) for an adapter that doesn't fit the model: target modules or tensors that the model
    lacks, missing tensors or other sizes, and kinds of modules that merging doesn't support.
    """
    parameters = {name: tensor.shape for name, tensor in model.state_dict().items()}
    config = copy.deepcopy(adapter.config)
    config.init_lora_weights = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tied weights and fan_in_fan_out, which are handled here
            adapted = get_peft_model(model, config, low_cpu_mem_usage=True).base_model.model
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise AdapterError(
            f"The adapter doesn't fit the base: {reason}.",
            hint=f"Check {CONFIG}, or give the base it was trained on with --base.",
            path=adapter.folder,
        ) from error
    deltas: Deltas = {}
    expected: dict[str, torch.Size] = {}
    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            deltas[adapted_parameter(name, module)], shapes = _low_rank(adapter, name, module)
            expected |= shapes
        elif isinstance(module, ModulesToSaveWrapper):
            for part in module.original_module.state_dict():
                deltas[f"{name}.{part}"] = Replaced(f"{PREFIX}{name}.{part}")
                expected[f"{PREFIX}{name}.{part}"] = parameters[f"{name}.{part}"]
    for key in adapter.shapes.keys() - expected.keys():  # biases, and embeddings that PEFT saves too
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        delta = deltas.get(name)
        if name not in parameters or isinstance(delta, Replaced | ExpertsLowRank):
            continue
        deltas[name] = replace(delta, base=key) if delta else Replaced(key)
        expected[key] = parameters[name]
    _check_fit(adapter, expected)
    return deltas


def _low_rank(adapter: Adapter, name: str, module: LoraLayer) -> tuple[LowRank | ExpertsLowRank, dict[str, torch.Size]]:
    """What the adapter changes in one parameter, and the shapes its tensors must have."""
    key, base = PREFIX + name, module.get_base_layer()
    if not is_mergeable(module):
        raise AdapterError(
            f"Merging doesn't support adapters on {type(base).__name__} ({name}).",
            hint="It supports Linear, Conv1D, Embedding and the parameters of experts.",
            path=adapter.folder / CONFIG,
        )
    rank, scale = module.r[NAME], module.scaling[NAME]
    delta: LowRank | ExpertsLowRank
    if type(module) is Embedding:
        up, down = f"{key}.lora_embedding_B", f"{key}.lora_embedding_A"
        inputs, outputs = base.weight.shape
    else:
        end = "" if type(module) is SVDLinear else ".weight"
        up, down = f"{key}.lora_B{end}", f"{key}.lora_A{end}"
        inputs, outputs = module.in_features, module.out_features
    if type(module) is ParamWrapper and module.get_param().ndim == 3:
        experts = len(module.get_param())
        delta = ExpertsLowRank(up, down, scale, getattr(base, "is_transposed", False), experts)  # as PEFT finds out
        return delta, {up: torch.Size((outputs, rank * experts)), down: torch.Size((rank * experts, inputs))}
    singular = magnitude = None
    if type(module) is SVDLinear:
        singular = f"{key}.lora_E"
        scale /= rank + 1e-5  # as PEFT does, with the rank before pruning
        kept = (adapter.config.rank_pattern or {}).get(f"{name}.lora_E")
        rank = rank if kept is None else sum(kept)
    if NAME in module.lora_magnitude_vector:
        magnitude = f"{key}.lora_magnitude_vector"
    shapes = {up: (outputs, rank), down: (rank, inputs), singular: (rank, 1), magnitude: (outputs,)}
    transposed = not isinstance(base, nn.Linear) and type(module) is not ParamWrapper
    delta = LowRank(up, down, scale, transposed, singular, magnitude)
    return delta, {name: torch.Size(size) for name, size in shapes.items() if name is not None}


def _check_fit(adapter: Adapter, expected: Mapping[str, torch.Size]) -> None:
    problems = [f"{name} isn't in the base" for name in sorted(adapter.shapes.keys() - expected.keys())]
    problems += [f"{name} is missing" for name in expected if name not in adapter.shapes]
    wrong = [name for name in expected if adapter.shapes.get(name, expected[name]) != expected[name]]
    problems += [f"{name} is {tuple(adapter.shapes[name])}, not {tuple(expected[name])}" for name in wrong]
    if not problems:
        return
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    embeddings = any("embed" in name or "lm_head" in name for name in wrong)
    raise AdapterError(
        f"The adapter's tensors don't fit the base: {'; '.join(problems[:3])}{more}.",
        hint="The vocabulary was resized for training; resize the base's in the same way."
        if embeddings
        else "Give the base that the adapter was trained on.",
        path=adapter.folder / TENSORS,
    )
