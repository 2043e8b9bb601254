"""What the model in training predicts for its rows, read from the training steps without an extra forward pass.

    with reading(model, tokenizer, places) as predictions:
        loss = trainer.compute_loss(…)         # predictions then has one text per place

For rows with loss="labels" it also replaces the loss over the vocabulary by the loss over the choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import maybe_gather_lm_head_ctx

from dlm_trl.models.divergence import hidden_states, whole
from dlm_trl.notes.errors import UsageError
from dlm_trl.online.encode import Encoded
from dlm_trl.tasks.protocol import Example

# Config entries of models that transform their logits after the head, which a loss over some logits would miss.
_LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a row in a batch: its line, and its first token in that line."""

    line: int
    start: int
    example: Example
    encoded: Encoded

    @property
    def answer_position(self) -> int:
        """The position whose logits predict the target's first token."""
        return self.start + self.encoded.start - 1


@contextmanager
def reading(model: PeftModel, tokenizer: PreTrainedTokenizerBase, places: Sequence[Place]) -> Iterator[list[str]]:
    """SFTTrainer's forward pass inside this context fills the list, one prediction per place.

    For every batch, all processes have to enter it or none, even without places: sharded weights of the head are
    gathered for it. Raises DlmError (UsageError) for loss="labels" on a model that transforms its logits after the
    head.
    """
    base = model.get_base_model()
    predictions: list[str] = []

    def read_predictions(module: nn.Module, args: Any, output: Any) -> None:
        head = base.get_output_embeddings()
        states = hidden.pop().to(head.weight.device)
        with maybe_gather_lm_head_ctx(head.weight, head.bias), torch.autocast(states.device.type, enabled=False):
            weight, bias = (None if w is None else whole(w.detach()) for w in (head.weight, head.bias))
            predictions[:] = _texts(places, states, weight, bias, tokenizer)
            over_choices = [place for place in places if place.example.loss == "labels"]
            if over_choices:
                _require_plain_logits(base.config.get_text_config())
                logits = _choice_logits(over_choices, states, weight, bias)
                targets = [place.example.choices.index(place.example.target) for place in over_choices]
                right = torch.tensor(targets, device=logits.device)
                lines = torch.tensor([place.line for place in over_choices], device=logits.device)
                positions = torch.tensor([place.answer_position for place in over_choices], device=logits.device)
                scores = logits.log_softmax(-1).gather(1, right[:, None])[:, 0].to(output.log_probs.dtype)
                output.log_probs = output.log_probs.index_put((lines, positions), scores)

    with hidden_states(model) as hidden:
        hook = model.register_forward_hook(read_predictions)
        try:
            yield predictions
        finally:
            hook.remove()


@torch.no_grad()
def _texts(
    places: Sequence[Place], states: Tensor, weight: Tensor, bias: Tensor | None, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    texts = [""] * len(places)
    chosen = [row for row, place in enumerate(places) if place.encoded.choices]
    if chosen:
        best = _choice_logits([places[row] for row in chosen], states, weight, bias).argmax(-1).tolist()
        for row, choice in zip(chosen, best, strict=True):
            texts[row] = places[row].example.choices[choice]
    for row, place in enumerate(places):
        if not place.encoded.choices:
            end = place.start + len(place.encoded.input_ids) - 1
            answer = states[place.line, place.answer_position : end].to(weight.dtype)
            tokens = nn.functional.linear(answer, weight, bias).argmax(-1)
            texts[row] = tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    return texts


def _choice_logits(places: Sequence[Place], states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The logits of each row's choices, (rows, most choices), padded with -inf."""
    most = max(len(place.encoded.choices) for place in places)
    padded = [[*p.encoded.choices, *[-1] * (most - len(p.encoded.choices))] for p in places]
    ids = torch.tensor(padded, device=states.device)
    lines = torch.tensor([p.line for p in places], device=states.device)
    positions = torch.tensor([p.answer_position for p in places], device=states.device)
    logits = torch.einsum("rh,rch->rc", states[lines, positions].float(), weight[ids].float())
    if bias is not None:
        logits = logits + bias[ids].float()
    return logits.masked_fill(ids < 0, -torch.inf)


def _require_plain_logits(config: Any) -> None:
    changed = [name for name in _LOGIT_TRANSFORMS if getattr(config, name, None) not in (None, 1.0)]
    if changed:
        raise UsageError(
            f"loss='labels' doesn't support a model that transforms its logits after the head ({', '.join(changed)}).",
            hint="Use loss='full'.",
        )
