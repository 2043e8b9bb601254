"""4-bit weights: rounding in groups with a zero point, and AWQ's "gemm" layout for storing them.

    groups = quantize_groups(linear.weight, 128)
    groups.dequantize()                          # the weights after rounding
    tensors = to_tensors(groups)                 # {"qweight": …, "qzeros": …, "scales": …}, as in a checkpoint
    from_tensors(**tensors)                      # the same groups again

A group is `group_size` neighbouring inputs of one output. A weight is (q - zero) * scale, with q and zero in 0…15, both
stored in 4 bits, and a 16-bit scale. The rounding is AWQ's (Lin et al., 2023, arXiv:2306.00978), operation by operation
in float16 like autoawq, so plain rounding and AWQ differ only in AWQ's scales.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 4
MAX = 2**BITS - 1
PER_WORD = 32 // BITS
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column in the n-th 4 bits of a word, from the lowest bits up
_LAYER_WEIGHT = re.compile(r"model\.layers\.\d+\..+\.weight")


@dataclass(frozen=True)
class Groups:
    """values (outputs, inputs) and zeros (outputs, inputs / group_size) in int32, scales like zeros in float16."""

    values: Tensor
    zeros: Tensor
    scales: Tensor

    def dequantize(self) -> Tensor:
        """The weights (outputs, inputs) in float16."""
        outputs, groups = self.scales.shape
        centred = self.values.view(outputs, groups, -1) - self.zeros[..., None]
        return (centred.half() * self.scales[..., None]).view(outputs, -1)


def quantize_groups(weight: Tensor, group_size: int) -> Groups:
    """Round weight (outputs, inputs) to 4 bits; inputs must be a multiple of group_size."""
    grouped = weight.detach().half().view(weight.shape[0], -1, group_size)
    lowest, highest = grouped.amin(dim=-1, keepdim=True), grouped.amax(dim=-1, keepdim=True)
    scales = (highest - lowest).clamp(min=1e-5) / MAX
    zeros = (-torch.round(lowest / scales)).clamp(0, MAX)
    values = torch.clamp(torch.round(grouped / scales) + zeros, 0, MAX)
    return Groups(values.to(torch.int32).view(weight.shape), zeros.squeeze(-1).to(torch.int32), scales.squeeze(-1))


def to_tensors(groups: Groups) -> dict[str, Tensor]:
    """The tensors of a checkpoint; outputs must be a multiple of 8.

    qweight (inputs, outputs / 8) and qzeros (inputs / group_size, outputs / 8) in int32, scales (inputs / group_size,
    outputs) in float16.
    """
    return {
        "qweight": pack(groups.values.T),
        "qzeros": pack(groups.zeros.T),
        "scales": groups.scales.T.contiguous(),
    }


def from_tensors(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Groups:
    """The inverse of `to_tensors`."""
    return Groups(unpack(qweight).T.contiguous(), unpack(qzeros).T.contiguous(), scales.T.contiguous())


def pack(values: Tensor) -> Tensor:
    """Pack integers 0…15 (rows, columns) into int32 words (rows, columns / 8)."""
    words = values.reshape(values.shape[0], -1, PER_WORD)[..., ORDER].to(torch.int64)
    shifts = torch.arange(0, 32, BITS, device=values.device)
    return (words << shifts).sum(dim=-1).to(torch.uint32).view(torch.int32)


def unpack(words: Tensor) -> Tensor:
    """Unpack words (rows, columns / 8) into integers 0…15 (rows, columns), int32."""
    shifts = torch.arange(0, 32, BITS, device=words.device, dtype=torch.int32)
    values = (words[..., None] >> shifts) & MAX
    restored = torch.empty_like(values)
    restored[..., list(ORDER)] = values
    return restored.reshape(words.shape[0], -1)


def is_layer_matrix(name: str, size: torch.Size) -> bool:
    """Whether a tensor gets quantised: the matrices of the layers do, embeddings and lm_head don't."""
    return len(size) == 2 and _LAYER_WEIGHT.fullmatch(name) is not None


def stored_bytes(shapes: Mapping[str, torch.Size], group_size: int) -> int:
    """Bytes of all tensors of a model with its matrices packed and everything else in 16 bits."""
    return sum(_bytes(name, size, group_size) for name, size in shapes.items())


def _bytes(name: str, size: torch.Size, group_size: int) -> int:
    numbers: int = size.numel()
    if not is_layer_matrix(name, size):
        return numbers * 2
    groups = numbers // group_size
    return (numbers + groups) * BITS // 8 + groups * 2
