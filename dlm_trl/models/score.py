"""Batched log-probabilities of given texts: `log_probs(model, tokenizer, prompts, completions)`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import LOGITS_AT_ONCE, contiguous_hidden, evaluating, in_batches
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.prefix import PrefixCache, common_prefix, families
from dlm_trl.models.sharding import is_sharded

TOKEN_BUDGET = 8_192  # rows × longest row of one batch, without what is cached
CACHE_BUDGET = 32_768  # rows × longest row of one batch, with what is cached: each row has a copy of it


@dataclass(frozen=True, slots=True)
class Score:
    """total: the log-probability of a completion after its prompt, in nats. tokens: the length of the completion."""

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
    advance: Callable[[int], object] | None = None,
) -> list[Score]:
    """The score of each completion after its prompt, in order; both are texts or lists of token ids.

    A text completion is tokenised on its own, without special tokens, and appended to the prompt's tokens. A common
    beginning of many prompts, such as the text that they ask about, is computed once. advance is called after each
    batch with its number of rows. Raises ValueError for an empty prompt or completion, and for lists of different
    lengths.
    """
    starts = [encode_text(tokenizer, p, True) if isinstance(p, str) else list(p) for p in prompts]
    ends = [encode_text(tokenizer, c) if isinstance(c, str) else list(c) for c in completions]
    for row, (prompt, completion) in enumerate(zip(starts, ends, strict=True)):
        if not prompt or not completion:
            raise ValueError(f"row {row} has an empty {'completion' if prompt else 'prompt'}")
    rows = [prompt + completion for prompt, completion in zip(starts, ends, strict=True)]
    scores: dict[int, Score] = {}
    with evaluating(model), contiguous_hidden(model):
        for family in families(rows):
            shared = common_prefix([starts[i] for i in family]) if len(family) > 1 else []
            prefix = PrefixCache.of(model, shared) if shared else None
            members = [(rows[i], len(starts[i])) for i in family]
            for batch in _scores(model, members, prefix, token_budget):
                scores |= {family[k]: score for k, score in batch}
                if advance:
                    advance(len(batch))
    return [scores[i] for i in range(len(rows))]


def _scores(
    model: PreTrainedModel, rows: Sequence[tuple[list[int], int]], prefix: PrefixCache | None, token_budget: int
) -> Iterator[list[tuple[int, Score]]]:
    """The score of each row with its index, batch by batch.

    rows: token ids, all beginning with `prefix`, and the length of the prompt.
    """
    shared = len(prefix.tokens) if prefix else 0

    def run(batch: list[int]) -> list[Score]:
        tokens, starts = zip(*((rows[i][0], rows[i][1]) for i in batch), strict=True)
        width = max(map(len, tokens))
        # Right padding: causal attention never sees it, and the sum below ends before it.
        padded = torch.tensor([row + [0] * (width - len(row)) for row in tokens], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens], device=model.device)
        # Logits from the first completion on; those of a long prompt would take more memory than the weights.
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

    lengths = [len(row) - shared for row, _ in rows]
    first = min(start for _, start in rows)
    vocabulary = model.config.get_text_config().vocab_size
    costs = [
        max(
            length,
            len(row) * token_budget / CACHE_BUDGET if shared else 0,
            (len(row) - first + 1) * vocabulary * token_budget / LOGITS_AT_ONCE,
        )
        for (row, _), length in zip(rows, lengths, strict=True)
    ]
    yield from in_batches(run, lengths, token_budget, halve=not is_sharded(model), costs=costs)
