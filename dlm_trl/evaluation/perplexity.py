"""Perplexity on a fixed text, to see whether training made a model worse at text it wasn't trained on.

    perplexity(model, tokenizer, general_text(), window=512)

Perplexity is per token, so only compare models with the same tokenizer.
"""

import math
from collections.abc import Callable
from importlib.resources import files

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import LOGITS_AT_ONCE, evaluating
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.load import context_length

WINDOW = 512  # tokens


def general_text() -> str:
    """About 50 kB of public-domain English (`general.txt`). Neither the embedded base nor any recipe trains on it."""
    return files("dlm_trl.evaluation").joinpath("general.txt").read_text(encoding="utf-8")


def general_perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, advance: Callable[[float], object] | None = None
) -> float:
    """Perplexity of the general text, in windows of WINDOW tokens, or of the model's context if that is shorter."""
    window = min(WINDOW, context_length(model.config) or WINDOW)
    return perplexity(model, tokenizer, general_text(), window, advance)


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    window: int,
    advance: Callable[[float], object] | None = None,
) -> float:
    """exp of the mean negative log-probability per token; every token of `text` is scored exactly once.

    Each window of `window` tokens starts with the last token of the window before, as context. The text's first token
    is scored after the BOS token; without a BOS token, it isn't scored. advance is called after each batch with its
    share of the text. Raises ValueError for a window longer than the context, and for a text of fewer than two tokens.
    """
    context = context_length(model.config) or window
    if not 2 <= window <= context:
        raise ValueError(f"window is {window}, but must be between 2 and {context} tokens for this model")
    ids = encode_text(tokenizer, text)
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    if len(ids) < 2:
        raise ValueError("the text has fewer than two tokens")

    stride = window - 1
    whole = (len(ids) - 1) // stride
    pieces = torch.tensor(ids).unfold(0, window, stride) if whole else torch.empty(0, window, dtype=torch.long)
    batch = max(1, LOGITS_AT_ONCE // (window * model.config.get_text_config().vocab_size))
    batches = [*pieces.split(batch)] if whole else []
    if len(ids) - 1 > whole * stride:
        batches.append(torch.tensor([ids[whole * stride :]]))

    with evaluating(model), torch.no_grad():
        total = 0.0
        for rows in batches:
            total += _nll(model, rows.to(model.device))
            if advance:
                advance(rows[:, 1:].numel() / (len(ids) - 1))
    return math.exp(total / (len(ids) - 1))


def _nll(model: PreTrainedModel, rows: torch.Tensor) -> float:
    """Summed negative log-probability in nats of `rows` (batch, length), without the first token of each row."""
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    return float(cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"))
