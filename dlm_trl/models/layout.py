"""Which tensors of a checkpoint make up which parameters of the model, and which of them an adapter changes.

    model = empty_model(config)                            # no weights
    parts = stored_parts(model, find_weights(base).files)  # {"model.layers.0.mlp.up_proj.weight": Part(…), …}
    storage_problems(changed, parts, sizes)                # {"model.layers.0.mlp.experts.down_proj": "lacks experts"}

transformers renames and joins tensors while it loads a model. Gemma 3 is stored under the names of an older release,
and mixtures of experts are stored expert by expert, while the model has all of a layer's experts in one parameter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora import Embedding, Linear, LoraLayer, ParamWrapper
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.pytorch_utils import Conv1D

# How transformers joins experts that are stored one by one: stacked, or stacked and one kind's rows after the other's.
STACKED = ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])


@dataclass(frozen=True)
class Part:
    """What a stored tensor is in the model: all of a parameter, or rows of one expert of it.

    expert: its index, None for the whole parameter. piece: which of the expert's `pieces` equal shares of rows.
    conversion: the operations that transformers computes the parameter with, empty if the values are the same.
    """

    parameter: str
    expert: int | None = None
    piece: int = 0
    pieces: int = 1
    conversion: str = ""


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model that `AutoModelForCausalLM` makes of this configuration, without weights.

    Raises KeyError if transformers has no causal language model for it.
    """
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if kind.config_class is not type(config):  # of a multimodal model, only the text model is loaded
        config = config.get_text_config()
    with init_empty_weights():  # from_config would try to partition the missing weights under ZeRO-3
        return kind(config)


def stored_parts(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, Part]:
    """The part of the model that each stored tensor is, by its name in the files; without those that aren't loaded."""
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    parameters, prefix = model.state_dict(), model.base_model_prefix
    parts: dict[str, Part] = {}
    experts: Counter[tuple[str, str]] = Counter()
    for name in sorted(stored, key=dot_natural_key):  # the order in which transformers stacks experts
        parameter, pattern = rename_source_key(name, renamings, converters, prefix, parameters)
        if parameter not in parameters and name in parameters:
            parameter, pattern = name, None
        if parameter not in parameters:
            continue
        if pattern is None:
            parts[name] = Part(parameter)
            continue
        converter, expert = by_pattern[pattern], experts[parameter, pattern]
        experts[parameter, pattern] += 1
        if [(type(step), vars(step).get("dim")) for step in converter.operations] in STACKED:
            sources = converter.source_patterns
            parts[name] = Part(parameter, expert, sources.index(pattern), len(sources))
        else:
            names = [type(step).__name__ for step in converter.operations]
            parts[name] = Part(parameter, conversion=", ".join(names))
    return parts


def storage_problems(
    changed: Iterable[str], parts: Mapping[str, Part], sizes: Mapping[str, torch.Size]
) -> dict[str, str]:
    """Why changed parameters can't be written back to the files, by name; {} if all can.

    parts: from `stored_parts`. sizes: the model's parameters.
    """
    stored: dict[str, list[Part]] = {}
    for part in parts.values():
        stored.setdefault(part.parameter, []).append(part)
    problems = {}
    for name in changed:
        found = stored.get(name)
        if found is None:
            problems[name] = "is in no file"
        elif found[0].conversion:
            problems[name] = f"is stored in another form ({found[0].conversion})"
        elif found[0].expert is not None and len(found) != sizes[name][0] * found[0].pieces:
            problems[name] = "lacks experts"
    return problems


def adapted_parameter(name: str, layer: LoraLayer) -> str:
    """The parameter that an adapter's layer changes. name: the layer's, in the model that PEFT returns."""
    changed = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
    return f"{name.replace('.base_layer', '')}.{changed}"  # PEFT nests the layers of one module's parameters


def is_mergeable(layer: LoraLayer) -> bool:
    """Whether `dlm-trl merge` can compute what this layer of an adapter adds."""
    if type(layer) is ParamWrapper:
        return layer.get_param().ndim in (2, 3)
    # PEFT's classes themselves: a subclass may compute something else.
    base = layer.get_base_layer()
    return type(layer) in (Linear, SVDLinear, Embedding) and isinstance(base, nn.Linear | Conv1D | nn.Embedding)
