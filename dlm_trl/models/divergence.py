"""How far a model's next-token distributions are from a teacher's: `token_kl`, with the gradient computed right away.

    with hidden_states(model) as seen:
        model(**inputs)
    teacher = next_tokens(base, last_hidden(base, rows, segments), top=32)     # no gradient
    token_kl(base, at(seen.pop(), segments), teacher)                          # nats, one per position

Used by rehearsal (stay near the base on general text) and by context distillation (a base that reads the notes teaches
the model that doesn't). Only the head is applied at the positions in question, in float32, without any scaling that a
model applies to its logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear
from trl.trainer.utils import maybe_gather_lm_head_ctx


class Segment(NamedTuple):
    """Positions in a batch: a line, and the first and last token in it (exclusive)."""

    line: int
    start: int
    end: int


class NextTokens(NamedTuple):
    """A distribution over the next token for each of n positions, as log-probabilities in float32.

    tokens: None if log_probs (n, vocabulary) has them all; or (n, k), and log_probs is (n, k + 1): those of the k
    likeliest tokens, and last that of all other tokens together.
    """

    log_probs: Tensor
    tokens: Tensor | None = None

    def rows(self, start: int, end: int) -> NextTokens:
        """Those of some positions."""
        return NextTokens(self.log_probs[start:end], None if self.tokens is None else self.tokens[start:end])


@torch.no_grad()
def next_tokens(base: nn.Module, states: Tensor, top: int | None = None) -> NextTokens:
    """The distributions after these hidden states (n, width); top: how many tokens to keep, None for all."""
    log_probs = _log_probs(base, states)
    if top is None or top >= log_probs.shape[-1]:
        return NextTokens(log_probs)
    tokens = log_probs.topk(top, sorted=False).indices
    return NextTokens(_with_rest(log_probs, tokens), tokens)


def token_kl(base: nn.Module, states: Tensor, teacher: NextTokens) -> Tensor:
    """KL(teacher ‖ model) in nats for each position, (n,); with `tokens`, the rest of the vocabulary is one outcome.

    states: the model's hidden states (n, width). Merging outcomes can only make the divergence smaller, and it's still
    0 only if the model agrees on every outcome that is kept. The gradient with respect to the states is computed right
    away, so no activation of vocabulary size lives until the backward pass, and a head that is partitioned over
    processes is needed only here.
    """
    leaf = states.detach().requires_grad_()
    with torch.enable_grad():
        found = _log_probs(base, leaf)
        if teacher.tokens is not None:
            found = _with_rest(found, teacher.tokens)
        divergence = (teacher.log_probs.exp() * (teacher.log_probs - found)).sum(-1)
        # A position's divergence depends on its own state only, so the gradient of the sum has them all.
        (gradient,) = torch.autograd.grad(divergence.sum(), leaf)
    through = (states * gradient).sum(-1).float()
    return divergence.detach() + through - through.detach()


def at(hidden: Tensor, segments: Sequence[Segment]) -> Tensor:
    """The states (n, width) at the positions of the segments, of hidden states (lines, tokens, width)."""
    if not segments:
        return hidden[0, :0]
    return torch.cat([hidden[segment.line, segment.start : segment.end] for segment in segments])


@torch.no_grad()
def last_hidden(base: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The last hidden states (rows, longest row, width) after these token ids."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=base.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=base.device)
    hidden: Tensor = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden


@contextmanager
def hidden_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the last hidden states of the forward pass inside; model: a PeftModel."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen[:] = [output.last_hidden_state]

    # Not on the base itself: some adapters call its forward without its hooks.
    hook = model.get_base_model().base_model.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def whole(weight: Tensor) -> Tensor:
    """The full tensor of a weight that FSDP may have sharded."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _log_probs(base: nn.Module, states: Tensor) -> Tensor:
    head = base.get_output_embeddings()
    with maybe_gather_lm_head_ctx(head.weight, head.bias), torch.autocast(states.device.type, enabled=False):
        weight = whole(head.weight.detach())
        bias = None if head.bias is None else whole(head.bias.detach())
        return linear(states.to(weight.dtype), weight, bias).float().log_softmax(-1)


def _with_rest(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """The log-probabilities of these tokens, and last that of all others together."""
    others = log_probs.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, tokens), others], -1)
