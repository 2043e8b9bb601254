"""4 bits: rounding in groups, the packed layout, and models with plainly rounded weights."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from dlm_trl.export.packing import (
    from_tensors,
    is_layer_matrix,
    pack,
    quantize_groups,
    stored_bytes,
    to_tensors,
    unpack,
)
from dlm_trl.export.rtn import round_to_nearest

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 5), st.integers(1, 6), st.sampled_from([32, 64, 128]), st.floats(1e-3, 1e3))
def test_packing_and_unpacking_gives_the_rounded_weights(
    seed: int, eights: int, groups: int, group_size: int, spread: float
) -> None:
    weight = spread * torch.randn(8 * eights, groups * group_size, generator=torch.Generator().manual_seed(seed))
    rounded = quantize_groups(weight, group_size)
    tensors = to_tensors(rounded)
    assert tensors["qweight"].shape == (groups * group_size, eights) and tensors["qweight"].dtype == torch.int32
    assert tensors["qzeros"].shape == (groups, eights) and tensors["qzeros"].dtype == torch.int32
    assert tensors["scales"].shape == (groups, 8 * eights) and tensors["scales"].dtype == torch.float16
    assert torch.equal(from_tensors(**tensors).dequantize(), rounded.dequantize())
    # One step, since the zero point is rounded too, plus the rounding to float16.
    step = rounded.scales.float().repeat_interleave(group_size, dim=1)
    assert ((rounded.dequantize().float() - weight).abs() <= step + weight.abs() / 512).all()
    written = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert stored_bytes({"model.layers.0.mlp.up_proj.weight": weight.shape}, group_size) == written


@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_pack_keeps_every_value(seed: int, rows: int, words: int) -> None:
    values = torch.randint(0, 16, (rows, 8 * words), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    assert torch.equal(unpack(pack(values)), values)


def test_the_layout_is_gemm() -> None:
    word = pack(torch.arange(8, dtype=torch.int32)[None])
    assert word.view(torch.uint32).item() == 0x75316420  # columns 0, 2, 4, 6, 1, 3, 5, 7, the lowest bits first


def test_weights_that_fit_in_4_bits_stay_the_same() -> None:
    steps = torch.randint(0, 16, (16, 2, 64), generator=torch.Generator().manual_seed(0))
    steps[..., 0], steps[..., 1] = 0, 15
    weight = ((steps - 5) * 0.25).view(16, 128)
    assert torch.equal(quantize_groups(weight, 64).dequantize().float(), weight)


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen2"])
def test_only_the_matrices_of_the_layers_are_rounded(make_base, kind: str) -> None:
    before = AutoModelForCausalLM.from_pretrained(make_base(kind))
    after = AutoModelForCausalLM.from_pretrained(make_base(kind))
    rounded = round_to_nearest(after, 32)
    assert len(rounded) == 14 and all(name.startswith("model.layers.") for name in rounded)
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert old.dtype == new.dtype
        if name in rounded:
            assert not torch.equal(old, new)
            assert torch.equal(new, quantize_groups(old, 32).dequantize().float())
        else:
            assert torch.equal(old, new), name


def test_smaller_groups_lose_less(random_base: Path) -> None:
    weight = AutoModelForCausalLM.from_pretrained(random_base).model.layers[0].mlp.down_proj.weight
    lost = [(quantize_groups(weight, size).dequantize() - weight).square().mean().item() for size in (128, 64, 32)]
    assert lost == sorted(lost, reverse=True)


def test_which_tensors_are_quantized() -> None:
    matrix, vector = torch.Size([64, 64]), torch.Size([64])
    assert is_layer_matrix("model.layers.11.self_attn.qkv_proj.weight", matrix)
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.bias"):
        assert not is_layer_matrix(name, matrix)
    assert not is_layer_matrix("model.layers.0.input_layernorm.weight", vector)
    assert stored_bytes({"model.embed_tokens.weight": matrix, "model.norm.weight": vector}, 32) == 2 * (64 * 64 + 64)
