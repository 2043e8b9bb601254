"""Score pairs: the margin of an answer over an empty one, and its grounding in the prose.

    judge = open_judge(document)                          # its adapter, else its base; or open_judge(document, "hf:…")
    for candidate, scores in zip(candidates, judge.score(candidates), strict=True):
        reason = verdict(scores, candidate.strategy)      # None: accepted

The judge reads each question in its chat template, with and without the prose. Only the tokens of the answer are
scored, not the end of the turn, which would dominate the score of a short answer.
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
from dlm_trl.models.control_tokens import encode_texts
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
THRESHOLD = 0.1  # nats per token, the default of the reference implementation
MIN_GROUNDING = 0.7  # nats per token; 95 % of the true answers of benchmarks/judge.py reach it

# Nats per token, by the certainty of the question: the less of it was written by rule, the more has to speak for it.
MIN_LEADS = (0.0, -0.1, -0.6)

_HINT = "Name another judge (--judge hf:…), or filter without one (--filter dedup-only)."
_WITH_PROSE = "Text:\n{prose}\n\nQuestion: {question}"
_SPACE = re.compile(r"\s")
_MIN_PROSE = 64  # tokens of prose that must fit the context for the grounding to mean anything


def open_judge(document: Document, reference: str | None = None, quantization: Quantization | None = None) -> Judge:
    """Load a judge: `self` (the document's adapter), `self#NAME` (a named one), `hf:<id or folder>` or `hf:tiny`.

    None: the document's adapter if it has been trained, else its base model. Raises DlmError: UsageError for another
    reference, AdapterError for `self` without a trained adapter, StoreError, BaseModelError, MissingExtraError,
    ChatTemplateError.
    """
    check_reference(reference)
    if reference is None or is_self(reference):
        current = current_adapter(document.frontmatter.dlm_id)
        adapter = current if reference is None else judging_adapter(reference, document)
        base = document.frontmatter.base_model
    else:
        from dlm_trl.models.registry import ModelRef

        adapter, base = None, ModelRef.from_record(reference.removeprefix("hf:")).name

    from dlm_trl.models.load import adapter_quantization, load_config, load_for_inference, load_tokenizer

    if adapter is not None:
        quantization = quantization or adapter_quantization(adapter)
        return Judge(*load_for_inference(adapter, quantization), reference or "self")
    load_config(base)  # the quickest way to fail if the base doesn't exist or can't be downloaded
    require_template(load_tokenizer(base), f"The judge {base}", _HINT)  # before the weights, which take longer
    return Judge(*load_for_inference(base, quantization), reference or base)


def judging_adapter(reference: str, document: Document) -> Path:
    """The folder of the adapter that `self` or `self#NAME` refers to. Raises DlmError as `self_adapter` does."""
    return self_adapter(reference, document, "leave out --judge to use the base model.")


def check_reference(reference: str | None) -> None:
    """Raise DlmError (UsageError) if this isn't a valid judge; None is the default judge."""
    if reference is None or is_self(reference):
        return
    kind, _, name = reference.partition(":")
    if kind != "hf" or not name.strip():
        raise UsageError(
            f"Unknown judge {reference!r}.",
            hint="Use self (the document's adapter; self#NAME for one of several), hf:<id or folder> or hf:tiny. "
            "Servers can't judge, because they don't return the probability of a given answer.",
        )


class _Row(NamedTuple):
    """One sequence to score: the tokens of the prompt, and of the answer that follows it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


class Judge:
    """A model that scores pairs; reports refer to it by `name`.

    Raises DlmError (ChatTemplateError) if the tokenizer has no chat template, or the template rejects a question.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        from dlm_trl.models.load import context_length

        require_template(tokenizer, f"The judge {name}", _HINT)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.context: int = context_length(model.config) or sys.maxsize
        try:
            self._lead = answer_lead(tokenizer, f"the judge {name}")
        except ChatTemplateError as error:
            raise ChatTemplateError(error.message, _HINT) from None

    def score(self, candidates: Sequence[Candidate]) -> list[Scores]:
        """The scores of each candidate, in order, computed in batches.

        The grounding is measured on the model without its adapter, since a model that memorised the notes doesn't need
        the prose to answer. Prose that doesn't fit the context together with the question and the answer is split,
        and the piece with the highest score counts; an answer is never cut. If there is room for hardly any prose,
        margin and grounding are -inf, so the pair is rejected.
        """
        sequences = [
            (self._with_and_without_prose(candidate), self._row(candidate.pair.question, EMPTY_ANSWER))
            for candidate in candidates
        ]
        margin_rows = [row for rows, empty in sequences if rows for row in (rows[0], empty)]
        grounding_rows = [row for rows, _ in sequences for row in rows]
        base, judge = self._mean_log_probs(grounding_rows, margin_rows)
        leads = self._leads(candidates)
        scores = []
        for candidate, (rows, empty), (lead, runner_up) in zip(candidates, sequences, leads, strict=True):
            margin = grounding = -math.inf
            if rows:
                without_prose, *with_prose = rows
                margin = judge[without_prose] - judge[empty]
                grounding = max(base[row] for row in with_prose) - base[without_prose]
            scores.append(Scores(margin, grounding, overlap(candidate.pair.answer, candidate.prose), lead, runner_up))
        return scores

    def _leads(self, candidates: Sequence[Candidate]) -> list[tuple[float | None, str | None]]:
        """How much each candidate's question favours its own sentence over the best of those nearby, and which that is.

        Both are None without a fact; the second also if the sentence is alone.

        A question favours a sentence by as much as it raises the sentence's log-probability as the answer, over that
        after the question "What?". This is the round trip of Alberti et al., "Synthetic QA Corpora Generation with
        Roundtrip Consistency" (ACL 2019), as a choice between sentences, which a small model can make.
        """
        rows: list[_Row] = []
        choices: list[list[tuple[_Row, _Row]]] = []  # per candidate and sentence: after the question, and after "What?"
        for candidate in candidates:
            choices.append([])
            if candidate.fact:
                prose = " ".join(candidate.fact.nearby)
                asked, anything = (
                    _WITH_PROSE.format(prose=prose, question=question)
                    for question in (candidate.pair.question, "What?")
                )
                choices[-1] = [(self._row(asked, s), self._row(anything, s)) for s in candidate.fact.nearby]
                rows += [row for pair in choices[-1] for row in pair]
        scores, _ = self._mean_log_probs(rows, [])
        leads: list[tuple[float | None, str | None]] = []
        for candidate, pairs in zip(candidates, choices, strict=True):
            if not candidate.fact:
                leads.append((None, None))
                continue
            favours = [scores[asked] - scores[anything] for asked, anything in pairs]
            others = list(candidate.fact.nearby)
            at = others.index(candidate.fact.sentence)
            own, _ = favours.pop(at), others.pop(at)
            best, runner_up = max(zip(favours, others, strict=True), default=(0.0, None))
            leads.append((own - best, runner_up))
        return leads

    def _with_and_without_prose(self, candidate: Candidate) -> list[_Row]:
        """The answer after the question alone, then after the question with each piece of the prose.

        Empty if there is no room for prose.
        """
        question, answer = candidate.pair

        def with_prose(prose: str) -> _Row:
            return self._row(_WITH_PROSE.format(prose=prose, question=question), answer)

        if with_prose("").tokens + _MIN_PROSE > self.context:
            return []
        rows = [self._row(question, answer)]
        pieces = [candidate.prose.strip()]
        while pieces:
            piece = pieces.pop()
            row = with_prose(piece)
            if row.tokens <= self.context:
                rows.append(row)
            else:
                pieces += _halves(piece)
        return rows

    def _mean_log_probs(
        self, base_rows: Sequence[_Row], judge_rows: Sequence[_Row]
    ) -> tuple[dict[_Row, float], dict[_Row, float]]:
        """Nats per token of each answer: of base_rows without the adapter, of judge_rows with it."""
        from peft import PeftModel

        if not isinstance(self.model, PeftModel):
            scores = self._scored([*base_rows, *judge_rows])
            return scores, scores
        with self.model.disable_adapter():
            base = self._scored(base_rows)
        return base, self._scored(judge_rows)

    def _scored(self, rows: Sequence[_Row]) -> dict[_Row, float]:
        """Nats per token of each answer; duplicates are computed once."""
        from dlm_trl.models.score import log_probs

        unique = list(dict.fromkeys(rows))
        scores = log_probs(self.model, self.tokenizer, [row.prompt for row in unique], [row.answer for row in unique])
        return {row: score.mean for row, score in zip(unique, scores, strict=True)}

    def _row(self, content: str, answer: str) -> _Row:
        before = render(self.tokenizer, [{"role": "user", "content": content}], f"the judge {self.name}") + self._lead
        prompt, both = encode_texts(self.tokenizer, [before, before + answer])
        # Tokenise both together, because in "Assistant: Paris." the model has learned " Paris" as one token.
        boundary = len([*takewhile(lambda tokens: tokens[0] == tokens[1], zip(prompt, both, strict=False))])
        return _Row(tuple(both[:boundary]), tuple(both[boundary:]))


def verdict(
    scores: Scores, strategy: Strategy, threshold: float = THRESHOLD, min_grounding: float = MIN_GROUNDING
) -> Reason | None:
    """Why the pair is rejected, or None; threshold and min_grounding are in nats per token.

    "judge": the margin isn't above 0. "threshold": the margin is below the threshold. "grounding": an extraction whose
    answer doesn't become likelier by min_grounding when the prose is in the prompt. NaN counts as too low.
    """
    if not scores.margin > 0:
        return "judge"
    if not scores.margin >= threshold:
        return "threshold"
    if strategy == "extraction" and not scores.grounding >= min_grounding:
        return "grounding"
    return None


def verdict_on_lead(scores: Scores, certainty: int) -> Reason | None:
    """Why the question about a sentence is rejected ("judge"), or None. certainty: see `questions.certainty`."""
    return None if scores.lead is not None and scores.lead >= MIN_LEADS[certainty] else "judge"


def _halves(text: str) -> list[str]:
    """A text of at least two characters, split at the first white space after its middle, or in the middle."""
    middle = len(text) // 2
    space = _SPACE.search(text, middle)
    cut = space.start() if space else middle
    return [half for half in (text[:cut].strip(), text[cut:].strip()) if half]
