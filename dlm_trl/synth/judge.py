"""Score pairs: how likely an answer is to a question, with the prose and without it. `verdict` sets the limits.

    judge = open_judge(document)                          # its adapter, else its base; or open_judge(document, "hf:…")
    scores = judge.score(candidates)

The judge reads each question in its chat template. Only the tokens of the answer are scored, not the end of the turn,
which would dominate the score of a short answer: whether the answer is whole is a score of its own.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dlm_trl.asking.words import overlap
from dlm_trl.models.chat import answer_lead, render, require_template
from dlm_trl.models.control_tokens import encode_text, encode_texts
from dlm_trl.notes.document import Document
from dlm_trl.notes.errors import ChatTemplateError, UsageError
from dlm_trl.notes.store import current_adapter
from dlm_trl.synth.pairs import Candidate, Scores
from dlm_trl.teachers.load import is_self, self_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dlm_trl.models.load import Quantization

EMPTY_ANSWER = "I don't know."

_HINT = "Name another judge (--judge hf:…), or filter without one (--filter dedup-only)."
_ANY_STATEMENT = "Say something that is true."  # what a prose view answers
_WITH_PROSE = "Text:\n{prose}\n\nQuestion: {question}"
_SPACE = re.compile(r"\s")
_END_TOKENS = 4  # a full stop and the end of the turn
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


class _Asked(NamedTuple):
    """The answer and the empty answer after the question alone, and both after it with each piece of the prose."""

    answer: _Row
    empty: _Row
    pieces: list[tuple[_Row, _Row]]


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

        What the judge reads with the prose is measured on the model without its adapter, since a model that memorised
        the notes doesn't need the prose to answer. Prose that doesn't fit the context together with the question and
        the answer is split, and the piece with the highest score counts; an answer is never cut. If there is room for
        hardly any prose, margin and grounding are -inf, so the pair is rejected.
        """
        asked = [self._asked(candidate) for candidate in candidates]
        fitting = [own for own in asked if own.pieces]  # what is too long for the context isn't read at all
        by_base = [row for own in fitting for piece in [(own.answer,), *own.pieces] for row in piece]
        by_judge = [row for own in fitting for row in (own.answer, own.empty)]
        base, judge = self._mean_log_probs(by_base, by_judge)
        best = [max(own.pieces, key=lambda piece: base[piece[0]], default=None) for own in asked]
        # The sentence that a question is about is known to be whole, and so is a prose view, by its words.
        unknown = [not (candidate.fact or candidate.is_prose) for candidate in candidates]
        ends = self._ends([piece[0] for piece, ask in zip(best, unknown, strict=True) if piece and ask])
        scores = []
        for candidate, own, piece, lead in zip(candidates, asked, best, self._leads(candidates), strict=True):
            shared = overlap(candidate.pair.answer, candidate.prose)
            if piece is None:
                scores.append(Scores(-math.inf, -math.inf, shared, *lead))
                continue
            closed = judge[own.answer] - judge[own.empty]
            margin = base[piece[0]] - base[piece[1]] if candidate.strategy == "extraction" else closed
            grounding = base[piece[0]] - base[own.answer]
            scores.append(Scores(margin, grounding, shared, *lead, novelty=-closed, ending=ends.get(piece[0])))
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

    def _asked(self, candidate: Candidate) -> _Asked:
        """What to score for a candidate; `pieces` is empty if the prose doesn't fit the context."""
        question, answer = candidate.pair.question or _ANY_STATEMENT, candidate.pair.answer
        # Whether a statement is likelier than an empty answer says nothing, so it isn't computed.
        empty = answer if candidate.is_prose else EMPTY_ANSWER

        def with_prose(prose: str, answer: str) -> _Row:
            return self._row(_WITH_PROSE.format(prose=prose, question=question), answer)

        asked = _Asked(self._row(question, answer), self._row(question, empty), [])
        room = self.context - _END_TOKENS
        pieces = [candidate.prose.strip()] if with_prose("", answer).tokens + _MIN_PROSE <= room else []
        while pieces:
            piece = pieces.pop()
            row = with_prose(piece, answer)
            if row.tokens <= room:
                asked.pieces.append((row, with_prose(piece, empty)))
            else:
                pieces += _halves(piece)
        return asked

    def _ends(self, rows: Sequence[_Row]) -> dict[_Row, float]:
        """The log-probability that each answer ends where it does, with or without a full stop after it."""
        from dlm_trl.models.generate import end_token_ids

        ends = end_token_ids(self.model, self.tokenizer)
        stop = encode_text(self.tokenizer, ".")
        ways = {
            row: [_Row(row.prompt + row.answer, tuple(way)) for end in ends for way in ([end], [*stop, end])]
            for row in rows
        }
        scores, _ = self._mean_log_probs([way for own in ways.values() for way in own], [])
        # Of all ways the likeliest: an answer that lacks its full stop is whole.
        return {row: max(scores[way] * len(way.answer) for way in own) for row, own in ways.items() if own}

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


def _halves(text: str) -> list[str]:
    """A text of at least two characters, split at the first white space after its middle, or in the middle."""
    middle = len(text) // 2
    space = _SPACE.search(text, middle)
    cut = space.start() if space else middle
    return [half for half in (text[:cut].strip(), text[cut:].strip()) if half]
