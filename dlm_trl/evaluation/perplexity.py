"""Perplexity on a fixed text: how well a model still reads what a run did not train it on.

    perplexity(model, tokenizer, general_text(), window=512)

The number is per token, so it compares runs on one tokenizer and says nothing across tokenizers.
"""

import math
from collections.abc import Callable
from importlib.resources import files

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import evaluating
from dlm_trl.models.load import context_length

WINDOW = 512  # tokens
LOGITS_AT_ONCE = 2**24  # 64 MiB in float32; a large vocabulary gets smaller batches


def general_text() -> str:
    """About 50 kB of public-domain English (`general.txt`) that neither the embedded base nor any recipe trains on."""
    return files("dlm_trl.evaluation").joinpath("general.txt").read_text(encoding="utf-8")


def general_perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, advance: Callable[[float], object] | None = None
) -> float:
    """That of the general text, in windows of WINDOW tokens, or of the whole context of a model with a shorter one."""
    window = min(WINDOW, context_length(model.config) or WINDOW)
    return perplexity(model, tokenizer, general_text(), window, advance)


@torch.no_grad()
def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    window: int,
    advance: Callable[[float], object] | None = None,
) -> float:
    """exp of the mean negative log-probability per token, every token of `text` scored exactly once.

    Windows of `window` tokens share one token with the window before: the shared one is context there and target here.
    The text's first token is scored after the tokenizer's BOS token, and not scored where it has none. advance is
    called after each batch with its share of the text. Raises ValueError for a window beyond the model's context and
    for a text of fewer than two tokens.
    """
    context = context_length(model.config) or window
    if not 2 <= window <= context:
        raise ValueError(f"a window of {window} tokens does not fit: 2 to {context} is what this model can read")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # longer than the context: meant
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    if len(ids) < 2:
        raise ValueError("a text of fewer than two tokens has no perplexity")

    stride = window - 1
    whole = (len(ids) - 1) // stride
    pieces = torch.tensor(ids).unfold(0, window, stride) if whole else torch.empty(0, window, dtype=torch.long)
    batch = max(1, LOGITS_AT_ONCE // (window * model.config.get_text_config().vocab_size))
    batches = [*pieces.split(batch)] if whole else []
    if len(ids) - 1 > whole * stride:
        batches.append(torch.tensor([ids[whole * stride :]]))

    with evaluating(model):
        total = 0.0
        for rows in batches:
            total += _nll(model, rows.to(model.device))
            if advance:
                advance(rows[:, 1:].numel() / (len(ids) - 1))
    return math.exp(total / (len(ids) - 1))


def _nll(model: PreTrainedModel, rows: torch.Tensor) -> float:
    """Summed negative log-probability, in nats, of all tokens of `rows` (batch, length) but the first of each row."""
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
