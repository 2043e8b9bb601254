"""The divergence from a teacher equals plain KL, per position and for its gradient, with all tokens or the top ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlm_trl.models.divergence import NextTokens, Segment, at, next_tokens, token_kl

VOCABULARY, WIDTH = 12, 6


class Head(nn.Module):
    """A model's output embeddings, with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(WIDTH, VOCABULARY)
        self.lm_head.requires_grad_(False)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head


def plain_kl(teacher: Tensor, model: Tensor, kept: list[list[int]] | None) -> Tensor:
    """From logits, by the definition; kept: for each position the tokens that count by themselves."""
    p, q = teacher.softmax(-1), model.softmax(-1)
    if kept is not None:
        p, q = (torch.stack([merged(row, kept[i]) for i, row in enumerate(probs)]) for probs in (p, q))
    return (p * (p / q).log()).sum(-1)


def merged(probs: Tensor, kept: list[int]) -> Tensor:
    others = sum(probs[k] for k in range(VOCABULARY) if k not in kept)
    return torch.stack([*(probs[k] for k in kept), torch.as_tensor(others)])


@pytest.mark.parametrize("top", [None, 1, 3, VOCABULARY - 1])
@given(seed=st.integers(0, 2**16), scale=st.floats(0.1, 8.0))
def test_divergence_and_gradient_are_those_of_plain_kl(top: int | None, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    base = Head()
    states = torch.randn(5, WIDTH, requires_grad=True)
    other = scale * torch.randn(5, WIDTH)
    weights = torch.rand(5)

    teacher = next_tokens(base, other, top)
    found = token_kl(base, states, teacher)
    (gradient,) = torch.autograd.grad((found * weights).sum(), states)

    kept = None if teacher.tokens is None else teacher.tokens.tolist()
    plain = plain_kl(base.lm_head(other), base.lm_head(states), kept)
    (plain_gradient,) = torch.autograd.grad((plain * weights).sum(), states)
    assert torch.allclose(found, plain, atol=1e-4, rtol=1e-3)
    assert torch.allclose(gradient, plain_gradient, atol=1e-4, rtol=1e-3)
    assert (found > -1e-5).all()
    if kept is not None:
        best = base.lm_head(other).topk(top, -1).indices
        assert [set(row) for row in kept] == [set(row) for row in best.tolist()]
        whole = token_kl(base, states, next_tokens(base, other))
        assert (found <= whole + 1e-4).all(), "merging outcomes never adds divergence"


def test_no_divergence_from_oneself_even_if_one_token_is_certain() -> None:
    base = Head()
    states = 1e3 * torch.eye(WIDTH)[:3]
    for top in (None, 2):
        found = token_kl(base, states.requires_grad_(), next_tokens(base, states, top))
        assert torch.isfinite(found).all() and found.abs().max() < 1e-3
        (gradient,) = torch.autograd.grad(found.sum(), states)
        assert torch.isfinite(gradient).all()


def test_more_tokens_than_the_vocabulary_has_are_all_tokens() -> None:
    assert next_tokens(Head(), torch.zeros(1, WIDTH), VOCABULARY).tokens is None


def test_positions_of_segments() -> None:
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    assert at(hidden, [Segment(1, 1, 3), Segment(0, 0, 1)])[:, 0].tolist() == [15, 18, 0]
    assert at(hidden, []).shape == (0, 3)
    parts = NextTokens(torch.eye(4), torch.arange(4)[:, None]).rows(1, 3)
    assert parts.log_probs.argmax(-1).tolist() == [1, 2] and parts.tokens is not None
    assert parts.tokens[:, 0].tolist() == [1, 2]
