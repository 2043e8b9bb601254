"""How likely a model finds given texts: `log_probs(model, tokenizer, prompts, completions)`, many rows at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import contiguous_hidden, evaluating, run_in_batches

TOKEN_BUDGET = 8_192  # rows × longest row of one batch


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probability of a completion after its prompt, in nats: of all its tokens together, and how many they are."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.total / self.tokens


@torch.no_grad()
def log_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    completions: Sequence[str] | Sequence[Sequence[int]],
    token_budget: int = TOKEN_BUDGET,
) -> list[Score]:
    """The score of each completion after its prompt, in their order; both are texts or token lists.

    A text completion is tokenised by itself, without special tokens, and joined to the prompt's tokens. Raises
    ValueError for an empty prompt or completion, and for lists of different lengths.
    """
    before = [tokenizer(p)["input_ids"] if isinstance(p, str) else list(p) for p in prompts]
    after = [
        tokenizer(c, add_special_tokens=False)["input_ids"] if isinstance(c, str) else list(c) for c in completions
    ]
    for row, (prompt, completion) in enumerate(zip(before, after, strict=True)):
        if not prompt or not completion:
            raise ValueError(f"row {row} has an empty {'completion' if prompt else 'prompt'}: nothing to score")
    lengths = [len(p) + len(c) for p, c in zip(before, after, strict=True)]

    def run(batch: list[int]) -> list[Score]:
        width = max(lengths[i] for i in batch)
        # Right padding: no real token sees it, and it is left out of the sum by position.
        rows = torch.tensor([before[i] + after[i] + [0] * (width - lengths[i]) for i in batch], device=model.device)
        mask = torch.tensor([[1] * lengths[i] + [0] * (width - lengths[i]) for i in batch], device=model.device)
        # Only from the first completion on: the logits of a long prompt would take more memory than all weights.
        start = min(len(before[i]) for i in batch)
        output = model(input_ids=rows, attention_mask=mask, use_cache=False, logits_to_keep=width - start + 1)
        logits = output.logits[:, :-1].float()
        chosen = logits.gather(-1, rows[:, start:, None])[..., 0] - logits.logsumexp(-1)
        return [
            Score(chosen[k, len(before[i]) - start : lengths[i] - start].sum().item(), len(after[i]))
            for k, i in enumerate(batch)
        ]

    with evaluating(model), contiguous_hidden(model):
        return run_in_batches(run, lengths, token_budget)
