"""Weights of 4 bits: rounding in groups with a zero point, and the layout (AWQ's "gemm") in which they are stored.

    groups = quantize_groups(linear.weight, 128)
    groups.dequantize()                          # what the rounded weights stand for
    tensors = to_tensors(groups)                 # {"qweight": …, "qzeros": …, "scales": …}, as in a checkpoint
    from_tensors(**tensors, group_size=128)      # the same weights again

A group is `group_size` neighbouring inputs of one output. A weight is (q - zero) * scale with q and zero in 0…15, both
stored as 4 bits, and a scale of 16 bits. The rounding is the one of AWQ (Lin et al., 2023, arXiv:2306.00978), step by
step in float16 as autoawq does it, so that plain rounding and AWQ differ by AWQ's scales alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 4
MOST = 2**BITS - 1
PER_WORD = 32 // BITS
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that lies in the n-th 4 bits of a word, the lowest first
_IN_A_LAYER = re.compile(r"model\.layers\.\d+\..+\.weight")


@dataclass(frozen=True)
class Groups:
    """values (outputs, inputs) and zeros (outputs, inputs / group_size), int32; scales, as many as zeros, float16."""

    values: Tensor
    zeros: Tensor
    scales: Tensor

    def dequantize(self) -> Tensor:
        """The weights (outputs, inputs) in float16."""
        outputs, groups = self.scales.shape
        centred = self.values.view(outputs, groups, -1) - self.zeros[..., None]
        return (centred.half() * self.scales[..., None]).view(outputs, -1)


def quantize_groups(weight: Tensor, group_size: int) -> Groups:
    """weight (outputs, inputs) rounded to 4 bits; inputs are a multiple of group_size."""
    grouped = weight.detach().half().view(weight.shape[0], -1, group_size)
    lowest, highest = grouped.amin(dim=-1, keepdim=True), grouped.amax(dim=-1, keepdim=True)
    scales = (highest - lowest).clamp(min=1e-5) / MOST
    zeros = (-torch.round(lowest / scales)).clamp(0, MOST)
    values = torch.clamp(torch.round(grouped / scales) + zeros, 0, MOST)
    return Groups(values.to(torch.int32).view(weight.shape), zeros.squeeze(-1).to(torch.int32), scales.squeeze(-1))


def to_tensors(groups: Groups) -> dict[str, Tensor]:
    """As a checkpoint has them: qweight (inputs, outputs / 8), qzeros (inputs / group_size, outputs / 8), both int32,
    scales (inputs / group_size, outputs) in float16; outputs are a multiple of 8.
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
    """Integers 0…15 (rows, columns) as int32 words (rows, columns / 8) of eight each."""
    words = values.reshape(values.shape[0], -1, PER_WORD)[..., ORDER].to(torch.int64)
    shifts = torch.arange(0, 32, BITS, device=values.device)
    return (words << shifts).sum(dim=-1).to(torch.uint32).view(torch.int32)


def unpack(words: Tensor) -> Tensor:
    """Words (rows, columns / 8) as integers 0…15 (rows, columns), int32."""
    shifts = torch.arange(0, 32, BITS, device=words.device, dtype=torch.int32)
    values = (words[..., None] >> shifts) & MOST
    restored = torch.empty_like(values)
    restored[..., list(ORDER)] = values
    return restored.reshape(words.shape[0], -1)


def is_layer_matrix(name: str, size: torch.Size) -> bool:
    """Whether a tensor of a 16-bit model becomes 4 bits: the matrices of its layers, neither embeddings nor lm_head."""
    return len(size) == 2 and _IN_A_LAYER.fullmatch(name) is not None


def stored_bytes(shapes: Mapping[str, torch.Size], group_size: int) -> int:
    """Bytes of all tensors of a model once its matrices are packed and what else there is has 16 bits."""
    return sum(_bytes(name, size, group_size) for name, size in shapes.items())


def _bytes(name: str, size: torch.Size, group_size: int) -> int:
    if not is_layer_matrix(name, size):
        return size.numel() * 2
    groups = size.numel() // group_size
    return (size.numel() + groups) * BITS // 8 + groups * 2
