"""Which pairs to believe: the margin of an answer over an empty one, and its grounding in the prose.

    judge = open_judge(document)                          # its adapter, else its base; or open_judge(document, "hf:…")
    for candidate, scores in zip(candidates, judge.score(candidates), strict=True):
        reason = verdict(scores, candidate.strategy)      # None: the pair stays

The judge is asked the question in its chat template, without the prose and with it. What is scored are the tokens of
the answer, without an end of turn: that would weigh most in short answers, and tell of their last full stop rather
than of what they say.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from dlm_trl.models.chat import answer_lead, render, require_template
from dlm_trl.notes.document import Document
from dlm_trl.notes.errors import ChatTemplateError, UsageError
from dlm_trl.notes.store import current_adapter
from dlm_trl.synth.pairs import Candidate, Scores
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.words import overlap
from dlm_trl.teachers.load import is_self, self_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dlm_trl.models.load import Quantization

Reason = Literal["judge", "threshold", "grounding"]

EMPTY_ANSWER = "I don't know."
THRESHOLD = 0.1  # nats per token, as the format's own tool has it
MIN_GROUNDING = 0.7  # nats per token; 95 % of the true answers of benchmarks/judge.py reach it

_OTHERWISE = "Name another judge (`--judge hf:…`), or filter without one (`--filter dedup-only`)."
_WITH_PROSE = "Text:\n{prose}\n\nQuestion: {question}"
_SPACE = re.compile(r"\s")
_LEAST_PROSE = 64  # tokens; with less room than this, a judge reads too little to tell


def open_judge(document: Document, reference: str | None = None, quantization: Quantization | None = None) -> Judge:
    """The judge that the user named: `self` for the document's adapter (`self#NAME` for the one of this name),
    `hf:<id or folder>`, `hf:tiny`.

    None stands for the document's adapter where one was trained, else for its base model. The weights are those of
    `load_for_inference`. Raises DlmError: UsageError for another reference, AdapterError for `self` without an adapter,
    StoreError, BaseModelError, MissingExtraError, ChatTemplateError.
    """
    check_reference(reference)
    if reference is None or is_self(reference):
        live = current_adapter(document.frontmatter.dlm_id)
        adapter = live if reference is None else judging_adapter(reference, document)
        base = document.frontmatter.base_model
    else:
        name = reference.removeprefix("hf:")
        adapter, base = None, name if name == "tiny" else reference

    from dlm_trl.models.load import adapter_quantization, load_config, load_for_inference, load_tokenizer

    if adapter is not None:
        quantization = quantization or adapter_quantization(adapter)
        return Judge(*load_for_inference(adapter, quantization), reference or "self")
    load_config(base)  # the quickest way to find out that there is no such base, or no network
    require_template(load_tokenizer(base), f"The judge {base}", _OTHERWISE)  # before the weights, which take longer
    return Judge(*load_for_inference(base, quantization), base)


def judging_adapter(reference: str, document: Document) -> Path:
    """The folder of the adapter that `self` or `self#NAME` names as judge. Raises DlmError as `self_adapter` does."""
    return self_adapter(reference, document, "name no judge, then it is the base model.")


def check_reference(reference: str | None) -> None:
    """Raises DlmError (UsageError) for what names no judge; None stands for the default one."""
    if reference is None or is_self(reference):
        return
    kind, _, name = reference.partition(":")
    if kind != "hf" or not name.strip():
        raise UsageError(
            f"{reference!r} is no judge.",
            hint="A judge is `self` (the document's adapter; self#NAME for one of several), hf:<id or folder>, or "
            "hf:tiny; servers do not tell how likely a given answer is.",
        )


class _Row(NamedTuple):
    """What one pass of the model reads: tokens of the prompt, and of the answer behind it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


class Judge:
    """A model that scores pairs; name is what a report calls it.

    Raises DlmError (ChatTemplateError) for a tokenizer without a chat template, or with one that refuses a question.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        from dlm_trl.models.load import context_length

        require_template(tokenizer, f"The judge {name}", _OTHERWISE)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.context: int = context_length(model.config) or sys.maxsize
        try:
            self._lead = answer_lead(tokenizer, f"the judge {name}")
        except ChatTemplateError as error:
            raise ChatTemplateError(error.message, _OTHERWISE) from None

    def score(self, candidates: Sequence[Candidate]) -> list[Scores]:
        """The scores of each candidate, in their order, computed in batches.

        The grounding is that of the model without its adapter: whoever learned the notes by heart answers no better
        with the page open. Prose that does not fit the context beside the question and the answer is cut into pieces,
        and the piece that helps most counts; an answer is never cut. Where not even a little prose fits, margin and
        grounding are -inf: no such pair passes.
        """
        asked = [(self._rows(candidate), self._row(candidate.pair.question, EMPTY_ANSWER)) for candidate in candidates]
        told = [row for rows, empty in asked if rows for row in (rows[0], empty)]
        read = [row for rows, _ in asked for row in rows]
        base, own = self._means(read, told)
        scores = []
        for candidate, (rows, empty) in zip(candidates, asked, strict=True):
            margin = grounding = -math.inf
            if rows:
                closed, *opened = rows
                margin = own[closed] - own[empty]
                grounding = max(base[row] for row in opened) - base[closed]
            scores.append(Scores(margin, grounding, overlap(candidate.pair.answer, candidate.prose)))
        return scores

    def _rows(self, candidate: Candidate) -> list[_Row]:
        """The answer behind the question without the prose, then behind that with each piece of it; nothing where no
        prose fits.
        """
        question, answer = candidate.pair

        def opened(prose: str) -> _Row:
            return self._row(_WITH_PROSE.format(prose=prose, question=question), answer)

        if opened("").tokens + _LEAST_PROSE > self.context:
            return []
        rows = [self._row(question, answer)]
        waiting = [candidate.prose.strip()]
        while waiting:
            piece = waiting.pop()
            row = opened(piece)
            if row.tokens <= self.context:
                rows.append(row)
            else:
                waiting += _halves(piece)
        return rows

    def _means(self, read: Sequence[_Row], told: Sequence[_Row]) -> tuple[dict[_Row, float], dict[_Row, float]]:
        """Nats per token of each answer: of `read` by the model without its adapter, of `told` by the model itself."""
        from peft import PeftModel

        if not isinstance(self.model, PeftModel):
            every = self._likely([*read, *told])
            return every, every
        with self.model.disable_adapter():
            base = self._likely(read)
        return base, self._likely(told)

    def _likely(self, rows: Sequence[_Row]) -> dict[_Row, float]:
        """Nats per token of each answer; what is asked twice is computed once."""
        from dlm_trl.models.score import log_probs

        unique = list(dict.fromkeys(rows))
        scores = log_probs(self.model, self.tokenizer, [row.prompt for row in unique], [row.answer for row in unique])
        return {row: score.mean for row, score in zip(unique, scores, strict=True)}

    def _row(self, content: str, answer: str) -> _Row:
        before = render(self.tokenizer, [{"role": "user", "content": content}], f"the judge {self.name}") + self._lead
        prompt, both = (self._tokens(text) for text in (before, before + answer))
        # In "Assistant: Paris." it is " Paris" that is one token, as the model has learned it.
        border = len([*takewhile(lambda tokens: tokens[0] == tokens[1], zip(prompt, both, strict=False))])
        return _Row(tuple(both[:border]), tuple(both[border:]))

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tokens


def verdict(
    scores: Scores, strategy: Strategy, threshold: float = THRESHOLD, min_grounding: float = MIN_GROUNDING
) -> Reason | None:
    """Why a pair falls, or None where it stays; threshold and min_grounding in nats per token.

    "judge": the margin is not above 0; "threshold": it is below the threshold; "grounding": an extraction whose answer
    the prose does not make likelier by min_grounding. Scores that are not a number count as too low.
    """
    if not scores.margin > 0:
        return "judge"
    if not scores.margin >= threshold:
        return "threshold"
    if strategy == "extraction" and not scores.grounding >= min_grounding:
        return "grounding"
    return None


def _halves(text: str) -> list[str]:
    """A text of two characters or more in two, cut at the first white space after its middle if there is some."""
    middle = len(text) // 2
    space = _SPACE.search(text, middle)
    cut = space.start() if space else middle
    return [half for half in (text[:cut].strip(), text[cut:].strip()) if half]
