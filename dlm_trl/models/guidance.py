"""Keep generation to a JSON schema: `Guide(tokenizer, vocabulary, ends, schema, rows)`. Needs the extra `guidance`.

    guide = Guide(tokenizer, model.config.vocab_size, end_token_ids(model, tokenizer), schema, rows=8)
    model.generate(…, logits_processor=[guide.processor(range(8), width=prompt_length)])

llguidance masks the tokens that the schema doesn't allow next. A row can only end when its JSON is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

# As models write it. Free white space is a trap for a small model, which fills it until its tokens are used up.
_FORMAT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_BITS = 32  # tokens in one number of llguidance's mask


def can_guide(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether llguidance is installed and knows this kind of tokenizer: a fast one."""
    return tokenizer.is_fast and find_spec("llguidance") is not None


class Guide:
    """What each row of a batch has written so far.

    vocabulary: the width of the model's scores. ends: the token ids that end a text. rows: how many there are.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: int,
        ends: Sequence[int],
        schema: Mapping[str, Any],
        rows: int,
    ) -> None:
        from llguidance import LLMatcher

        known = _known(tokenizer, vocabulary, tuple(ends))
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_FORMAT)
        self._ends = set(ends)
        self._matchers = [LLMatcher(known, grammar) for _ in range(rows)]
        self._read = [0] * rows  # tokens of each row that its matcher knows

    def processor(self, rows: Sequence[int], width: int) -> LogitsProcessor:
        """For a batch of these rows, whose prompts have `width` tokens."""
        return _SchemaProcessor(self, rows, width)

    def allowed(self, row: int, new: Sequence[int], vocabulary: int) -> torch.Tensor:
        """Which tokens may follow these of a row (bool, one per token). All may follow its end, where it is padded."""
        matcher = self._matchers[row]
        if not self._ends.isdisjoint(new):
            return torch.ones(vocabulary, dtype=torch.bool)
        if not matcher.is_stopped():
            matcher.consume_tokens(list(new[self._read[row] :]))
            self._read[row] = len(new)
        if matcher.is_stopped():  # the JSON is complete
            return torch.zeros(vocabulary, dtype=torch.bool).index_fill_(0, torch.tensor([*self._ends]), True)
        bits = torch.empty(-(-vocabulary // _BITS), dtype=torch.int32)
        matcher.unsafe_compute_mask_ptr(bits.data_ptr(), bits.numel() * bits.element_size())
        return ((bits[:, None] >> torch.arange(_BITS, dtype=torch.int32)) & 1).flatten()[:vocabulary].bool()


class _SchemaProcessor(LogitsProcessor):
    def __init__(self, guide: Guide, rows: Sequence[int], width: int) -> None:
        self._guide, self._rows, self._width = guide, rows, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        texts = zip(self._rows, input_ids[:, self._width :].tolist(), strict=True)
        allowed = torch.stack([self._guide.allowed(row, new, scores.shape[-1]) for row, new in texts])
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)


@lru_cache(maxsize=4)
def _known(tokenizer: PreTrainedTokenizerBase, vocabulary: int, ends: tuple[int, ...]) -> Any:
    """The tokenizer as llguidance needs it; cached, since this goes through the whole vocabulary."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, vocabulary, list(ends))
