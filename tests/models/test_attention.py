"""Fused attention is on inside, off afterwards, and gives the same logits."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel
from transformers.integrations import sdpa_attention

from dlm_trl.models.attention import fused_attention
from dlm_trl.models.load import load_base


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each call of torch's fused attention."""
    calls: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args, **options):
        calls.append(1)
        return attend(*args, **options)

    monkeypatch.setattr(sdpa_attention.torch.nn.functional, "scaled_dot_product_attention", watched)
    return calls


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 8, 13, 21]])).logits


def test_an_eager_model_is_fused_inside_and_eager_afterwards(random_base: Path, fused: list[int]) -> None:
    model = load_base(str(random_base), attn_implementation="eager").eval()
    before = logits(model)
    assert not fused
    with pytest.raises(RuntimeError, match="inside"), fused_attention(model):
        assert torch.allclose(logits(model), before, atol=1e-4)
        assert len(fused) == model.config.num_hidden_layers
        raise RuntimeError("inside")
    assert torch.equal(logits(model), before)
    assert len(fused) == model.config.num_hidden_layers


def test_other_models_stay_as_they_are(random_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_base(str(random_base), attn_implementation="sdpa")
    with fused_attention(model):
        assert model.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "sdpa"
    model = load_base(str(random_base), attn_implementation="eager")
    monkeypatch.setattr(type(model), "_supports_sdpa", False)
    with fused_attention(model):
        assert model.config._attn_implementation == "eager"
