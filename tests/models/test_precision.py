"""The inference dtype for each processor and stored dtype."""

import pytest
import torch
from transformers import LlamaConfig

from dlm_trl.models.load import load_base, load_config
from dlm_trl.models.precision import inference_dtype


@pytest.mark.parametrize(
    ("stored", "capability", "dtype"),
    [
        ("bfloat16", "avx512_bf16", torch.bfloat16),
        ("bfloat16", "amx_bf16", torch.bfloat16),
        ("float16", "bf16", torch.bfloat16),
        ("bfloat16", "avx512_f", torch.float32),
        ("float16", "avx512_f", torch.float32),
        ("float32", "avx512_bf16", torch.float32),
        (None, "avx512_bf16", torch.float32),
    ],
)
def test_a_cpu_uses_bfloat16_for_16_bit_weights_if_supported(
    monkeypatch: pytest.MonkeyPatch, stored: str | None, capability: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    known = {"avx512_bf16": False, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known | {capability: True})
    assert inference_dtype(LlamaConfig(dtype=stored)) == dtype


@pytest.mark.parametrize(
    ("quantized", "dtype"), [({}, torch.bfloat16), ({"quantization_config": {"quant_method": "awq"}}, torch.float16)]
)
def test_a_gpu_uses_bfloat16_except_for_weights_quantised_on_disk(
    monkeypatch: pytest.MonkeyPatch, quantized: dict[str, object], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert inference_dtype(LlamaConfig(dtype="float16", **quantized)) == dtype


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU uses bfloat16")
def test_the_embedded_base_is_float32_on_a_cpu() -> None:
    assert load_base("tiny", "inference").dtype == inference_dtype(load_config("tiny")) == torch.float32
