"""What the model in training answers to its rows, read from the training steps themselves: no forward pass is added.

    with reading(model, tokenizer, places) as predictions:
        loss = trainer.compute_loss(…)         # predictions then has one text for each place

For rows with loss="labels" it also puts the loss over the choices alone in place of that over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import maybe_gather_lm_head_ctx

from dlm_trl.notes.errors import UsageError
from dlm_trl.online.encode import Encoded
from dlm_trl.tasks.protocol import Example

# Settings of models that change their logits behind the head: a loss over some of the logits would miss that.
_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in a batch: in which line, from which token on."""

    line: int
    start: int
    example: Example
    encoded: Encoded

    @property
    def asked(self) -> int:
        """The position whose logits are those of the target's first token."""
        return self.start + self.encoded.start - 1


@contextmanager
def reading(model: PeftModel, tokenizer: PreTrainedTokenizerBase, places: Sequence[Place]) -> Iterator[list[str]]:
    """Inside, a forward pass of SFTTrainer over the batch that has these places fills the list, in their order.

    It has to be entered for every batch by all processes or by none, without places too: where the head's weights lie
    in parts on several processes, they are put together for it. Raises DlmError (UsageError) for loss="labels" on a
    model that changes its logits behind the head.
    """
    base = model.get_base_model()
    predictions: list[str] = []
    hidden: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        hidden[:] = [output.last_hidden_state]

    def read(module: nn.Module, args: Any, output: Any) -> None:
        head = base.get_output_embeddings()
        states = hidden.pop().to(head.weight.device)
        with maybe_gather_lm_head_ctx(head.weight, head.bias), torch.autocast(states.device.type, enabled=False):
            weight, bias = (None if w is None else whole(w.detach()) for w in (head.weight, head.bias))
            predictions[:] = _texts(places, states, weight, bias, tokenizer)
            narrow = [place for place in places if place.example.loss == "labels"]
            if narrow:
                _require_plain_logits(base.config.get_text_config())
                logits = _choice_logits(narrow, states, weight, bias)
                right = torch.tensor([p.example.choices.index(p.example.target) for p in narrow], device=logits.device)
                at = [torch.tensor([getattr(p, a) for p in narrow], device=logits.device) for a in ("line", "asked")]
                scores = logits.log_softmax(-1).gather(1, right[:, None])[:, 0]
                output.log_probs = output.log_probs.index_put(at, scores.to(output.log_probs.dtype))

    # Not on the base itself: some adapters call its forward past its hooks.
    hooks = [base.base_model.register_forward_hook(keep), model.register_forward_hook(read)]
    try:
        yield predictions
    finally:
        for hook in hooks:
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
            answer = states[place.line, place.asked : end].to(weight.dtype)
            tokens = nn.functional.linear(answer, weight, bias).argmax(-1)
            texts[row] = tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    return texts


def _choice_logits(places: Sequence[Place], states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits of each row's choices at its question's end, (rows, most choices), -inf behind a row's last choice."""
    most = max(len(place.encoded.choices) for place in places)
    padded = [[*p.encoded.choices, *[-1] * (most - len(p.encoded.choices))] for p in places]
    ids = torch.tensor(padded, device=states.device)
    lines = torch.tensor([p.line for p in places], device=states.device)
    asked = torch.tensor([p.asked for p in places], device=states.device)
    logits = torch.einsum("rh,rch->rc", states[lines, asked].float(), weight[ids].float())
    if bias is not None:
        logits = logits + bias[ids].float()
    return logits.masked_fill(ids < 0, -torch.inf)


def whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _require_plain_logits(config: Any) -> None:
    changed = [name for name in _TRANSFORMS if getattr(config, name, None) not in (None, 1.0)]
    if changed:
        raise UsageError(
            f"This model changes its logits behind the head ({', '.join(changed)}): no loss='labels'.",
            hint="Use loss='full'.",
        )
