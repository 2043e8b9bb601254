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
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Literal

from dlm_trl.notes import DlmError
from dlm_trl.notes.document import Document
from dlm_trl.notes.store import current_adapter
from dlm_trl.synth.pairs import Candidate, Scores
from dlm_trl.synth.prompts import Strategy
from dlm_trl.synth.words import overlap

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
    """The judge that the user named: `self` for the document's adapter, `hf:<id or folder>`, `hf:tiny`.

    None stands for the document's adapter where one was trained, else for its base model. Weights are bfloat16 on a
    GPU and float32 on the CPU; quantization is for a model without an adapter. Raises DlmError: UsageError for another
    reference, AdapterError for `self` without an adapter, StoreError, BaseModelError, MissingExtraError,
    ChatTemplateError.
    """
    check_reference(reference)
    if reference is None or reference == "self":
        adapter = current_adapter(document.frontmatter.dlm_id)
        if adapter is None and reference == "self":
            raise DlmError(
                kind="AdapterError",
                message="The judge is to be `self`, but no adapter of this document was trained yet.",
                hint=f"Train one: dlm-trl train {document.path}; or name no judge, then it is the base model.",
                path=document.path,
            )
        base = document.frontmatter.base_model
    else:
        name = reference.removeprefix("hf:")
        adapter, base = None, name if name == "tiny" else reference

    import torch
    from accelerate import PartialState

    from dlm_trl.models.load import load_adapted, load_base, load_config, load_tokenizer
    from dlm_trl.teachers.local import require_chat_template

    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    if adapter is not None:
        model, tokenizer = load_adapted(adapter, dtype)
        return Judge(model.to(PartialState().device), tokenizer, "self")
    load_config(base)  # the quickest way to find out that there is no such base, or no network
    tokenizer = load_tokenizer(base)
    require_chat_template(tokenizer, f"The judge {base}", _OTHERWISE)  # before the weights, which take longer
    model = load_base(base, dtype, quantization)
    return Judge(model if quantization else model.to(PartialState().device), tokenizer, base)


def check_reference(reference: str | None) -> None:
    """Raises DlmError (UsageError) for what names no judge; None stands for the default one."""
    if reference in (None, "self"):
        return
    kind, _, name = reference.partition(":")
    if kind != "hf" or not name.strip():
        raise DlmError(
            kind="UsageError",
            message=f"{reference!r} is no judge.",
            hint="A judge is `self` (the document's adapter), hf:<id or folder>, or hf:tiny; servers do not tell how "
            "likely a given answer is.",
        )


class Judge:
    """A model that scores pairs; name is what a report calls it.

    Raises DlmError (ChatTemplateError) for a tokenizer without a chat template.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        from dlm_trl.models.load import context_length
        from dlm_trl.teachers.local import require_chat_template

        require_chat_template(tokenizer, f"The judge {name}", _OTHERWISE)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.context: int = context_length(model.config) or sys.maxsize

    def score(self, candidates: Sequence[Candidate]) -> list[Scores]:
        """The scores of each candidate, in their order, computed in batches.

        The grounding is that of the model without its adapter: whoever learned the notes by heart answers no better
        with the page open. Prose that does not fit the context beside the question and the answer is cut into pieces,
        and the piece that helps most counts; an answer is never cut. Where not even a little prose fits, margin and
        grounding are -inf: no such pair passes.
        """
        answers = [self._tokens(candidate.pair.answer) for candidate in candidates]
        asked = [self._prompts(c, len(answer)) for c, answer in zip(candidates, answers, strict=True)]
        rows = [(prompts, answer) for prompts, answer in zip(asked, answers, strict=True) if prompts]
        empty = self._tokens(EMPTY_ANSWER)
        nothing = iter(self._means([(prompts[0], empty) for prompts, _ in rows]))
        something = iter(self._means([(prompts[0], answer) for prompts, answer in rows]))
        with self._base():
            read = iter(self._means([(prompt, answer) for prompts, answer in rows for prompt in prompts]))
        scores = []
        for candidate, prompts in zip(candidates, asked, strict=True):
            margin = grounding = -math.inf
            if prompts:
                margin = next(something) - next(nothing)
                closed, *opened = islice(read, len(prompts))
                grounding = max(opened) - closed
            scores.append(Scores(margin, grounding, overlap(candidate.pair.answer, candidate.prose)))
        return scores

    def _prompts(self, candidate: Candidate, answer: int) -> list[list[int]]:
        """The question without the prose, then with each piece of it; nothing where no prose fits beside `answer`
        tokens.
        """
        question, prose = candidate.pair.question, candidate.prose.strip()
        room = self.context - max(answer, len(self._tokens(EMPTY_ANSWER)))
        if len(self._prompt(_WITH_PROSE.format(prose="", question=question))) + _LEAST_PROSE > room:
            return []
        prompts = [self._prompt(question)]
        waiting = [prose]
        while waiting:
            piece = waiting.pop()
            prompt = self._prompt(_WITH_PROSE.format(prose=piece, question=question))
            if len(prompt) <= room:
                prompts.append(prompt)
            else:
                waiting += _halves(piece)
        return prompts

    def _base(self) -> AbstractContextManager[None]:
        from peft import PeftModel

        return self.model.disable_adapter() if isinstance(self.model, PeftModel) else nullcontext()

    def _means(self, rows: list[tuple[list[int], list[int]]]) -> list[float]:
        """Nats per token of each (prompt, completion)."""
        from dlm_trl.models.score import log_probs

        scores = log_probs(self.model, self.tokenizer, [p for p, _ in rows], [c for _, c in rows])
        return [score.mean for score in scores]

    def _prompt(self, content: str) -> list[int]:
        from dlm_trl.teachers.local import prompt_tokens

        return prompt_tokens(self.tokenizer, [{"role": "user", "content": content}], self.name)

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
