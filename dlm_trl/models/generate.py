"""Generate text for many prompts: `generate(model, tokenizer, prompts, max_new_tokens=64) -> list of texts`.

Prompts are texts or lists of token ids, of any lengths; `chat.encode` turns a conversation into token ids.
`generate_batches(…)` yields each batch as soon as it is done, `generate_stream(…)` hands over a text as it is written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

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
    TextStreamer,
    TopPLogitsWarper,
)

from dlm_trl.models.batching import SMALLER, contiguous_hidden, evaluating, in_batches, memory_errors
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.guidance import Guide
from dlm_trl.models.prefix import PrefixCache, common_prefix
from dlm_trl.models.sharding import is_sharded
from dlm_trl.notes.errors import BaseModelError

TOKEN_BUDGET = 32_768  # rows × (longest prompt + new tokens) of one batch


class Generated(NamedTuple):
    """row: the prompt's index. new_tokens: how many tokens were generated, including an end token."""

    row: int
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
    """The continuation of each prompt, in order, without special tokens.

    temperature: 0 is greedy. A text ends at one of the model's end tokens, before the first string of `stop`, or after
    `max_new_tokens`; everything else in the model's generation_config is ignored. The model's mode, the global random
    state and the tokenizer don't change.

    seed: one per prompt, or one to derive them from by index. Each row has its own random numbers, so its text depends
    on its prompt and seed, not on the rest of its batch, up to the rounding of the model's arithmetic. Raises
    ValueError if the numbers of seeds and prompts differ.
    """
    batches = generate_batches(
        model, tokenizer, prompts, max_new_tokens, temperature, top_p, stop, seed, token_budget=token_budget
    )
    texts = {generated.row: generated.text for batch in batches for generated in batch}
    return [texts[row] for row in range(len(prompts))]


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
    schema: Mapping[str, Any] | None = None,
) -> Iterator[list[Generated]]:
    """Like `generate`, batch by batch, longest prompts first. Between batches the model is unchanged.

    schema: a JSON schema that the texts keep to, except where max_new_tokens or `stop` cut them off; see `guidance`.

    prefix: this model's keys and values for the tokens that all prompts begin with, and that are shorter than each
    prompt. By default, the common beginning of a batch is computed once for the batch.
    """
    tokens = [encode_text(tokenizer, p, True) if isinstance(p, str) else list(p) for p in prompts]
    seeds = [row_seed(seed, i) for i in range(len(tokens))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(tokens):
        raise ValueError(f"{len(seeds)} seeds for {len(tokens)} prompts: give one each")
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = end_token_ids(base, tokenizer)
    generator = _BatchGenerator(
        base, tokenizer, ends, _pad_id(tokenizer), max_new_tokens, temperature, top_p, stop, prefix, schema
    )

    def run(batch: list[int]) -> list[Generated]:
        rows = generator.generate([tokens[i] for i in batch], [seeds[i] for i in batch])
        return [Generated(i, *row) for i, row in zip(batch, rows, strict=True)]

    lengths = [len(t) + max_new_tokens for t in tokens]
    for done in in_batches(run, lengths, token_budget, halve=not is_sharded(base)):
        yield [generated for _, generated in done]


def generate_stream(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    max_new_tokens: int,
    on_text: Callable[[str], object],
    temperature: float = 0.0,
    seed: int = 0,
    prefix: PrefixCache | None = None,
) -> Generated:
    """The continuation of one prompt, the same as `generate` gives; on_text gets it piece by piece, word by word.

    An exception in on_text, or a KeyboardInterrupt, ends it and leaves the model unchanged.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    ends = end_token_ids(base, tokenizer)
    generator = _BatchGenerator(
        base, tokenizer, ends, _pad_id(tokenizer), max_new_tokens, temperature, 1.0, (), prefix, None,
        _Pieces(tokenizer, on_text, ends),
    )  # fmt: skip
    with memory_errors(f"for a prompt of {len(prompt):,} tokens", SMALLER):
        ((text, new_tokens),) = generator.generate([list(prompt)], [seed])
    return Generated(0, text, new_tokens)


def row_seed(*parts: int | str | None) -> int:
    """A seed from whatever identifies a row, such as (seed, index) or a request's key; the same in every process."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that end a text: the tokenizer's EOS token, then those in the model's generation_config."""
    configured = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return list(dict.fromkeys(i for i in ids if i is not None))


@dataclass(frozen=True, slots=True)
class _BatchGenerator:
    """Generates the rows of one batch."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: list[int]
    pad: int
    max_new_tokens: int
    temperature: float
    top_p: float
    stop: Sequence[str]
    prefix: PrefixCache | None
    schema: Mapping[str, Any] | None
    streamer: TextStreamer | None = None  # for a single row

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[tuple[str, int]]:
        """Text and number of new tokens of each row.

        Once some rows have ended, the others continue without them, with their part of the cache. Otherwise every row
        would cost as much as the longest text of the batch.
        """
        device, width = self.model.device, max(map(len, prompts))
        prefix = self.prefix or self._compute_prefix(prompts)
        shared = len(prefix.tokens) if prefix else 0  # padding goes between the prefix and the rest
        ids = torch.tensor([p[:shared] + [self.pad] * (width - len(p)) + p[shared:] for p in prompts], device=device)
        mask = torch.tensor(
            [[1] * shared + [0] * (width - len(p)) + [1] * (len(p) - shared) for p in prompts], device=device
        )
        rows, max_length = list(range(len(prompts))), width + self.max_new_tokens
        guide = self._guide(len(prompts))
        cache = prefix.repeat(len(prompts), max_length) if prefix else None
        finished: dict[int, tuple[str, int]] = {}
        with evaluating(self.model), contiguous_hidden(self.model), _generation_config(self.model, self._config()):
            while rows:
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    past_key_values=cache,
                    max_new_tokens=max_length - ids.shape[1],
                    logits_processor=LogitsProcessorList(
                        [
                            *([guide.processor(rows, width)] if guide else []),
                            *self._sampling([seeds[row] for row in rows], width),
                        ]
                    ),
                    stopping_criteria=self._stopping(),
                    streamer=self.streamer,
                    synced_gpus=None if is_sharded(self.model) else False,  # None: transformers decides
                )
                ids, cache = output.sequences, output.past_key_values
                texts = [self._decode(new) for new in ids[:, width:].tolist()]
                finished |= {row: text for row, text in zip(rows, texts, strict=True) if text}
                unfinished = [k for k, text in enumerate(texts) if not text]
                rows = [rows[k] for k in unfinished]
                chosen = torch.tensor(unfinished, dtype=torch.long, device=device)
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)[chosen]
                ids = ids[chosen]
                if rows and cache is not None:
                    cache.reorder_cache(chosen)
        return [finished[row] for row in range(len(prompts))]

    def _compute_prefix(self, prompts: Sequence[list[int]]) -> PrefixCache | None:
        """The cache of what these prompts begin with, such as a system prompt or few-shot examples."""
        tokens = [] if is_sharded(self.model) else common_prefix(prompts)
        return PrefixCache.of(self.model, tokens) if tokens else None

    def _decode(self, new: list[int]) -> tuple[str, int] | None:
        """A row's text and number of new tokens; None if it hasn't ended. Padding may follow its end."""
        end = next((k for k, token in enumerate(new) if token in self.ends), len(new))
        ended = end < len(new) or len(new) == self.max_new_tokens
        if not (ended or self.stop):
            return None
        text = self.tokenizer.decode(new[:end], skip_special_tokens=True)
        cuts = [text.find(s) for s in self.stop if s in text]
        if not cuts:
            return (text, min(end + 1, len(new))) if ended else None
        while end and new[end - 1] == self.pad:
            end -= 1
        return text[: min(cuts)], end

    def _config(self) -> GenerationConfig:
        return GenerationConfig(
            do_sample=False,  # SeededSampler leaves one token to choose from
            num_beams=1,
            use_cache=True,
            eos_token_id=self.ends or None,
            pad_token_id=self.pad,
            return_dict_in_generate=True,
        )

    def _guide(self, rows: int) -> Guide | None:
        if self.schema is None:
            return None
        return Guide(self.tokenizer, self.model.config.get_text_config().vocab_size, self.ends, self.schema, rows)

    def _sampling(self, seeds: Sequence[int], width: int) -> list[LogitsProcessor]:
        if not self.temperature:
            return []
        top_p = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return [TemperatureLogitsWarper(self.temperature), *top_p, SeededSampler(seeds, width)]

    def _stopping(self) -> StoppingCriteriaList:
        strings = [_stop_strings(self.tokenizer, tuple(self.stop))] if self.stop else []
        some = [] if is_sharded(self.model) else [_SomeRowsEnded([*self.ends, self.pad])]
        return StoppingCriteriaList([*strings, *some])


class SeededSampler(LogitsProcessor):
    """Samples one token per row of the scores (rows, vocabulary) and masks all others.

    Inverse transform sampling: the first token at which the cumulative probability exceeds a uniform number. A row's
    number is a hash of its seed and of its number of tokens after `width`, the prompts' length.
    """

    def __init__(self, seeds: Sequence[int], width: int) -> None:
        self.seeds = seeds
        self.width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = input_ids.shape[1] - self.width
        # 40 bits in float64 stay below 1, so the last token that top_p keeps can be drawn, and none after it.
        uniform = [(row_seed(seed, position) >> 24) / 2**40 for seed in self.seeds]
        cumulative = scores.double().softmax(-1).cumsum(-1)
        if not cumulative[:, -1].isfinite().all():
            raise BaseModelError(
                "The model's logits aren't numbers.",
                hint="Its weights are damaged, or its values overflow in this precision.",
            )
        at = cumulative[:, -1:] * torch.tensor(uniform, dtype=cumulative.dtype, device=scores.device)[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(-1, torch.searchsorted(cumulative, at, right=True), 0.0)


class _Pieces(TextStreamer):
    """Hands the text over instead of printing it, without the end token, which may be an ordinary one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], object], ends: Sequence[int]
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text
        self.ends = ends

    def put(self, value: torch.Tensor) -> None:
        if self.next_tokens_are_prompt or value.flatten()[0] not in self.ends:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(text)


class _SomeRowsEnded(StoppingCriteria):
    """Interrupts a batch once a quarter of its rows are at an end or padding token."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        ended = torch.isin(input_ids[:, -1], torch.tensor(self.tokens, device=input_ids.device))
        return (ended.sum() * 4 >= len(ended)).expand(len(ended))


@lru_cache(maxsize=8)
def _stop_strings(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> StopStringCriteria:
    """Cached: creating one goes through the whole vocabulary, about a second for 128,000 tokens."""
    return StopStringCriteria(tokenizer, list(stop))


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token will do, since padding is masked by position."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in candidates if i is not None)


@contextmanager
def _generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Replaces the model's generation_config, from which `generate` fills in whatever an explicit one leaves unset."""
    original = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = original
