"""Text from a model, many prompts at once: `generate(model, tokenizer, prompts, max_new_tokens=64) -> list of texts`.

Prompts are texts or token lists, of any lengths; `tokenizer.apply_chat_template(messages, add_generation_prompt=True,
return_dict=False)` makes such a list of a conversation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import evaluating, run_in_batches

TOKEN_BUDGET = 16_384  # rows × (longest prompt + new tokens) of one batch


@torch.no_grad()
def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
) -> list[str]:
    """What the model writes after each prompt, in the order of the prompts, without special tokens.

    temperature 0 is greedy. A text ends at the model's end tokens, before the first of the strings in `stop`, or after
    `max_new_tokens`. Nothing but the end tokens is taken from the model's generation_config. Model mode, global random
    state and tokenizer are afterwards what they were before; sampling depends on `seed` and on how rows are batched.
    """
    tokens = [tokenizer(p)["input_ids"] if isinstance(p, str) else list(p) for p in prompts]
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = end_token_ids(inner, tokenizer)
    config = _config(max_new_tokens, temperature, top_p, ends, _pad_id(tokenizer))
    stopping = {"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}

    def run(batch: list[int]) -> list[str]:
        width = max(len(tokens[i]) for i in batch)
        padding = [width - len(tokens[i]) for i in batch]
        rows = [[config.pad_token_id] * pad + tokens[i] for pad, i in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        output = inner.generate(
            input_ids=torch.tensor(rows, device=inner.device),
            attention_mask=torch.tensor(mask, device=inner.device),
            **stopping,
        )
        return [_decode(tokenizer, new, ends, stop) for new in output[:, width:].tolist()]

    with evaluating(inner), _generation_config(inner, config), _seeded(seed) if temperature else nullcontext():
        return run_in_batches(run, [len(t) + max_new_tokens for t in tokens], token_budget)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text: the tokenizer's end token first, then those of the model's generation_config."""
    configured = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return list(dict.fromkeys(i for i in ids if i is not None))


def _config(new_tokens: int, temperature: float, top_p: float, ends: list[int], pad: int) -> GenerationConfig:
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=temperature > 0,
        num_beams=1,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=pad,
        **sampling,
    )


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token will do, since padding is told by its position."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in candidates if i is not None)


def _decode(tokenizer: PreTrainedTokenizerBase, new: list[int], ends: list[int], stop: Sequence[str]) -> str:
    end = next((k for k, token in enumerate(new) if token in ends), len(new))
    text = tokenizer.decode(new[:end], skip_special_tokens=True)
    cuts = [text.find(s) for s in stop if s in text]
    return text[: min(cuts)] if cuts else text


@contextmanager
def _generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills what an explicit configuration leaves open from the model's own, so that one is swapped out."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
