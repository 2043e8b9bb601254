"""How likely a model finds given texts: `log_probs(model, tokenizer, prompts, completions)`, many rows at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import contiguous_hidden, evaluating, run_in_batches
from dlm_trl.models.prefix import PrefixCache, common_prefix, families

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

    A text completion is tokenised by itself, without special tokens, and joined to the prompt's tokens. What many
    prompts begin with, such as a text that they all ask about, is read once. Raises ValueError for an empty prompt or
    completion, and for lists of different lengths.
    """
    before = [tokenizer(p)["input_ids"] if isinstance(p, str) else list(p) for p in prompts]
    after = [
        tokenizer(c, add_special_tokens=False)["input_ids"] if isinstance(c, str) else list(c) for c in completions
    ]
    for row, (prompt, completion) in enumerate(zip(before, after, strict=True)):
        if not prompt or not completion:
            raise ValueError(f"row {row} has an empty {'completion' if prompt else 'prompt'}: nothing to score")
    rows = [p + c for p, c in zip(before, after, strict=True)]
    scores: dict[int, Score] = {}
    with evaluating(model), contiguous_hidden(model):
        for family in families(rows):
            shared = common_prefix([before[i] for i in family]) if len(family) > 1 else []
            prefix = PrefixCache.of(model, shared) if shared else None
            ours = [(rows[i], len(before[i])) for i in family]
            scores |= zip(family, _scores(model, ours, prefix, token_budget), strict=True)
    return [scores[i] for i in range(len(rows))]


def _scores(
    model: PreTrainedModel, rows: Sequence[tuple[list[int], int]], prefix: PrefixCache | None, token_budget: int
) -> list[Score]:
    """The score of each row, given as its tokens and how many of them are the prompt, which all begin with prefix."""
    shared = len(prefix.tokens) if prefix else 0

    def run(batch: list[int]) -> list[Score]:
        tokens, starts = zip(*((rows[i][0], rows[i][1]) for i in batch), strict=True)
        width = max(map(len, tokens))
        # Right padding: no real token sees it, and it is left out of the sum by position.
        padded = torch.tensor([row + [0] * (width - len(row)) for row in tokens], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens], device=model.device)
        # Only from the first completion on: the logits of a long prompt would take more memory than all weights.
        start = min(starts)
        output = model(
            input_ids=padded[:, shared:],
            attention_mask=mask,
            past_key_values=prefix.repeat(len(batch), width) if prefix else None,
            use_cache=prefix is not None,
            logits_to_keep=width - start + 1,
        )
        logits = output.logits[:, :-1].float()
        chosen = logits.gather(-1, padded[:, start:, None])[..., 0] - logits.logsumexp(-1)
        return [
            Score(chosen[k, begin - start : len(row) - start].sum().item(), len(row) - begin)
            for k, (row, begin) in enumerate(zip(tokens, starts, strict=True))
        ]

    return run_in_batches(run, [len(row) - shared for row, _ in rows], token_budget)
