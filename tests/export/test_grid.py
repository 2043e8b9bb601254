"""A base that was stored in 4 bits is recognised by its weights, its lineage or its folder; other bases aren't."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from dlm_trl.export.grid import describe_grid, share_on_grid
from dlm_trl.export.merge import merge
from dlm_trl.export.packing import is_layer_matrix
from dlm_trl.models import lineage
from dlm_trl.models.weights import find_weights


def through_bits(folder: Path, bits: int, dtype: torch.dtype) -> None:
    """Round like GGUF's Q4_1 (or with other bits): a float16 scale and minimum for each 32 weights."""
    tensors = load_file(folder / "model.safetensors")
    for name, weight in tensors.items():
        if is_layer_matrix(name, weight.shape):
            blocks = weight.float().view(-1, 32)
            low = blocks.amin(1, keepdim=True)
            step = ((blocks.amax(1, keepdim=True) - low) / (2**bits - 1)).half().float()
            steps = ((blocks - low) / step).round().clamp(0, 2**bits - 1)
            tensors[name] = (steps * step + low.half().float()).view(weight.shape)
    save_file(
        {name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


@pytest.fixture
def copied(make_base: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """copied(bits, dtype): a base with random weights rounded to this many bits; 16 leaves them unchanged."""

    def make(bits: int, dtype: torch.dtype = torch.bfloat16) -> Path:
        folder = tmp_path / f"through-{bits}"
        folder.mkdir()
        for file in make_base("llama", torch.bfloat16).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        if bits < 16:
            through_bits(folder, bits, dtype)
        return folder

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_rounded_to_4_bits_are_on_a_grid_in_every_dtype(copied, dtype: torch.dtype) -> None:
    folder = copied(4, dtype)
    assert share_on_grid(find_weights(str(folder))) == 1
    assert describe_grid(folder, []) == "its weights are on a 4-bit grid"


@pytest.mark.parametrize("bits", [16, 8, 6])
def test_other_weights_are_on_no_grid(copied, bits: int) -> None:
    folder = copied(bits)
    assert share_on_grid(find_weights(str(folder))) < 0.05
    assert describe_grid(folder, []) is None


def test_trained_weights_are_on_no_grid() -> None:
    weights = find_weights("tiny")
    assert share_on_grid(weights) < 0.01
    for name in weights.files:  # and after a cast to bfloat16
        if "mlp.down_proj" in name:
            assert min(len(block.unique()) for block in weights.read(name).bfloat16().view(-1, 32)[:64]) > 16


def test_a_merged_adapter_hides_the_grid_from_the_weights_but_not_from_the_lineage(
    copied, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = copied(4)
    adapter = make_adapter(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    merged = merge(adapter, tmp_path / "merged")
    assert share_on_grid(find_weights(str(merged))) < 0.05
    steps = lineage.read(merged)
    assert describe_grid(merged, steps) == "its base through-4 is on a 4-bit grid"
    base.rename(tmp_path / "moved")
    assert describe_grid(merged, steps) is None
    for source, known in (("dequantised from Q4_1", True), ("dequantised from Q8_0", False), (None, False)):
        description = describe_grid(merged, [steps[-1] | {"base_source": source}])
        assert description == (f"its base was {source}" if known else None)
