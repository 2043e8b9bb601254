"""Text from a model, many prompts at once: `generate(model, tokenizer, prompts, max_new_tokens=64) -> list of texts`.

Prompts are texts or token lists, of any lengths; `tokenizer.apply_chat_template(messages, add_generation_prompt=True,
return_dict=False)` makes such a list of a conversation. `generate_batches(…)` hands out each batch when it is done.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from dlm_trl.models.batching import contiguous_hidden, evaluating, in_batches
from dlm_trl.models.prefix import PrefixCache, common_prefix

TOKEN_BUDGET = 32_768  # rows × (longest prompt + new tokens) of one batch


class Generated(NamedTuple):
    """The text after prompt number `index`, and how many tokens the model wrote for it, an end token included."""

    index: int
    text: str
    new_tokens: int


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | Sequence[int] = 0,
    token_budget: int = TOKEN_BUDGET,
) -> list[str]:
    """What the model writes after each prompt, in the order of the prompts, without special tokens.

    temperature 0 is greedy. A text ends at the model's end tokens, before the first of the strings in `stop`, or after
    `max_new_tokens`. Nothing but the end tokens is taken from the model's generation_config. Model mode, global random
    state and tokenizer are afterwards what they were before.

    seed: one for each prompt, or one from which each prompt's is drawn by its index. Every row has random numbers of
    its own, so a text depends on its prompt and seed alone, not on the rows of its batch, but for the rounding of the
    model's arithmetic. Raises ValueError for a different number of seeds and prompts.
    """
    batches = generate_batches(
        model, tokenizer, prompts, max_new_tokens, temperature, top_p, stop, seed, token_budget=token_budget
    )
    texts = {row.index: row.text for batch in batches for row in batch}
    return [texts[index] for index in range(len(prompts))]


def generate_batches(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | Sequence[int] = 0,
    token_budget: int = TOKEN_BUDGET,
    prefix: PrefixCache | None = None,
) -> Iterator[list[Generated]]:
    """As `generate`, batch after batch, the longest prompts first. Between two batches the model is as it was.

    prefix: keys and values of the tokens that every prompt begins with (and none ends with), made by this very model.
    Without one, what the prompts of a batch have in common is read once for the batch.
    """
    tokens = [tokenizer(p)["input_ids"] if isinstance(p, str) else list(p) for p in prompts]
    seeds = [row_seed(seed, i) for i in range(len(tokens))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(tokens):
        raise ValueError(f"{len(seeds)} seeds for {len(tokens)} prompts: one each is needed")
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = end_token_ids(inner, tokenizer)
    writer = _Writer(inner, tokenizer, ends, _pad_id(tokenizer), max_new_tokens, temperature, top_p, stop, prefix)

    def run(batch: list[int]) -> list[Generated]:
        rows = writer.write([tokens[i] for i in batch], [seeds[i] for i in batch])
        return [Generated(i, *row) for i, row in zip(batch, rows, strict=True)]

    for done in in_batches(run, [len(t) + max_new_tokens for t in tokens], token_budget):
        yield [generated for _, generated in done]


def row_seed(*parts: int | str | None) -> int:
    """A seed for one row from what names it: (seed, index), or a request's key, …; the same in every process."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a text: the tokenizer's end token first, then those of the model's generation_config."""
    configured = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return list(dict.fromkeys(i for i in ids if i is not None))


def in_parts(model: torch.nn.Module) -> bool:
    """Whether the weights lie in parts on several processes: then all of them have to generate in the same steps."""
    return is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the rows of one batch."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: list[int]
    pad: int
    max_new_tokens: int
    temperature: float
    top_p: float
    stop: Sequence[str]
    prefix: PrefixCache | None

    @torch.no_grad()
    def write(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[tuple[str, int]]:
        """Text and number of new tokens of each row.

        When some rows have ended, the others go on without them, from the cache that they have: a batch would else
        cost, until its longest text is written, as if all were that long.
        """
        device, width = self.model.device, max(map(len, prompts))
        prefix = self.prefix or self._beginning(prompts)
        shared = len(prefix.tokens) if prefix else 0  # padding stands behind what is computed already
        ids = torch.tensor([p[:shared] + [self.pad] * (width - len(p)) + p[shared:] for p in prompts], device=device)
        mask = [[1] * shared + [0] * (width - len(p)) + [1] * (len(p) - shared) for p in prompts]
        mask = torch.tensor(mask, device=device)
        rows, most = list(range(len(prompts))), width + self.max_new_tokens
        cache = prefix.repeat(len(prompts), most) if prefix else None
        written: dict[int, tuple[str, int]] = {}
        with evaluating(self.model), contiguous_hidden(self.model), _generation_config(self.model, self._config()):
            while rows:
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    past_key_values=cache,
                    max_new_tokens=most - ids.shape[1],
                    logits_processor=self._sampling([seeds[row] for row in rows], width),
                    stopping_criteria=self._stopping(),
                )
                ids, cache = output.sequences, output.past_key_values
                texts = [self._read(new) for new in ids[:, width:].tolist()]
                written |= {row: text for row, text in zip(rows, texts, strict=True) if text}
                left = [k for k, text in enumerate(texts) if not text]
                rows = [rows[k] for k in left]
                chosen = torch.tensor(left, dtype=torch.long, device=device)
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)[chosen]
                ids = ids[chosen]
                if rows and cache is not None:
                    cache.reorder_cache(chosen)
        return [written[row] for row in range(len(prompts))]

    def _beginning(self, prompts: Sequence[list[int]]) -> PrefixCache | None:
        """What these prompts begin with, such as a system prompt or examples: read once, and not in every row."""
        tokens = [] if in_parts(self.model) else common_prefix(prompts)
        return PrefixCache.of(self.model, tokens) if tokens else None

    def _read(self, new: list[int]) -> tuple[str, int] | None:
        """Text and number of the new tokens of a row, behind whose end there may be padding; None if it goes on."""
        end = next((k for k, token in enumerate(new) if token in self.ends), len(new))
        whole = end < len(new) or len(new) == self.max_new_tokens
        if not (whole or self.stop):
            return None
        text = self.tokenizer.decode(new[:end], skip_special_tokens=True)
        cuts = [text.find(s) for s in self.stop if s in text]
        if not cuts:
            return (text, min(end + 1, len(new))) if whole else None
        while end and new[end - 1] == self.pad:
            end -= 1
        return text[: min(cuts)], end

    def _config(self) -> GenerationConfig:
        return GenerationConfig(
            do_sample=False,  # a sample is made of the scores
            num_beams=1,
            use_cache=True,
            eos_token_id=self.ends or None,
            pad_token_id=self.pad,
            return_dict_in_generate=True,
        )

    def _sampling(self, seeds: Sequence[int], width: int) -> LogitsProcessorList:
        if not self.temperature:
            return LogitsProcessorList()
        top_p = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return LogitsProcessorList([TemperatureLogitsWarper(self.temperature), *top_p, _Drawn(seeds, width)])

    def _stopping(self) -> StoppingCriteriaList:
        strings = [_stop_strings(self.tokenizer, tuple(self.stop))] if self.stop else []
        some = [] if in_parts(self.model) else [_SomeHaveEnded([*self.ends, self.pad])]
        return StoppingCriteriaList([*strings, *some])


class _Drawn(LogitsProcessor):
    """Leaves of the scores (rows, vocabulary) one token each, drawn by their probability.

    By inversion: the first token at which the cumulative probability passes a uniform number. A row's number is a hash
    of its seed and of how many tokens it has beyond `width`, the prompts' length.
    """

    def __init__(self, seeds: Sequence[int], width: int) -> None:
        self.seeds = seeds
        self.width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = input_ids.shape[1] - self.width
        # In float64, and a hair below 1: the last token that top_p left has its share, and none behind it.
        uniform = [(row_seed(seed, position) >> 24) / 2**40 for seed in self.seeds]
        passed = scores.double().softmax(-1).cumsum(-1)
        at = passed[:, -1:] * torch.tensor(uniform, dtype=passed.dtype, device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(-1, torch.searchsorted(passed, at, right=True), 0.0)


class _SomeHaveEnded(StoppingCriteria):
    """Interrupts a batch when a quarter of its rows are at one of these tokens, which end or pad a text."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        ended = torch.isin(input_ids[:, -1], torch.tensor(self.tokens, device=input_ids.device))
        return (ended.sum() * 4 >= len(ended)).expand(len(ended))


@lru_cache(maxsize=8)
def _stop_strings(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> StopStringCriteria:
    """Kept, since making one goes through the whole vocabulary: with 128,000 tokens that takes about a second."""
    return StopStringCriteria(tokenizer, list(stop))


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token will do, since padding is told by its position."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in candidates if i is not None)


@contextmanager
def _generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills what an explicit configuration leaves open from the model's own, so that one is swapped out."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
