"""Context distillation: the base reads the notes, the model in training learns to answer like it without them.

    Distillation("kl", contexts).attach(trainer)                                     # rows of a dataset
    OnlineSynthesisCallback(task, seed=0, distillation=Distillation("both").attach(trainer)).attach(trainer)

A context belongs to a row: the tokens that the frozen base (adapter off) reads instead of the row's prompt, such as the
question after the paragraph that answers it. At each token of the row's answer, the base's distribution is the target:
forward KL(base with context ‖ model without), over the base's `TOP` likeliest tokens and the rest as one outcome. The
objective is kl, or both: cross-entropy on the answer plus kl. Rows without a context keep their cross-entropy. The
notes themselves are never in the model's own prompt: it would learn to read, not to know.

Sources: Askell et al., "A General Language Assistant as a Laboratory for Alignment" (2021) and Snell et al., "Learning
by Distilling Context" (2022); for facts, Kujanpää et al., "Knowledge Injection via Prompt Distillation" (2024), who
also use forward KL on answers that were written with the page open.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from torch import nn
from trl import SFTTrainer

from dlm_trl.models.divergence import NextTokens, Segment, at, hidden_states, last_hidden, next_tokens, token_kl
from dlm_trl.models.frozen import check_attachable, frozen
from dlm_trl.models.sharding import is_sharded
from dlm_trl.models.tokenize import IGNORED
from dlm_trl.online.encode import spans
from dlm_trl.online.hooks import Batch, StepHook, add_hook

TOP = 32  # tokens of a distribution that are kept
REMEMBERED = 8192  # rows whose distributions are kept for later epochs: 4 kB for an answer of ten tokens

Objective = Literal["nll", "kl", "both"]
Row = tuple[int, ...]  # the tokens of a row, prompt and answer


class Distillation(StepHook):
    """Trains rows that have a context towards the base's distributions; logs `distillation/kl` in nats per token.

    contexts: for a row's tokens, the tokens that the base reads instead of its prompt. A row of a dataset is looked up
    in every batch, however rows are batched; online synthesis adds the rows of a step with `expect`.
    """

    def __init__(self, objective: Literal["kl", "both"], contexts: Mapping[Row, Sequence[int]] | None = None) -> None:
        self.objective = objective
        self.contexts: dict[Row, Sequence[int]] = dict(contexts or {})
        self._of_step: dict[Row, Sequence[int]] = {}
        self._known: dict[tuple[int, ...], NextTokens] = {}
        self._divergences: list[float] = []  # of the tokens since the last line of the log

    def attach(self, trainer: SFTTrainer) -> Distillation:
        """Add it to a trainer. Raises AdapterError if switching the adapter off doesn't give the base back."""
        self._model = trainer.accelerator.unwrap_model(trainer.model)
        check_attachable(self._model)
        add_hook(trainer, self)
        return self

    def expect(self, contexts: Mapping[Row, Sequence[int]]) -> None:
        """The rows of the next step that have a context, in place of those of the last one."""
        self._of_step = dict(contexts)

    def before_loss(self, inputs: Batch) -> Batch:
        """Finds the rows that have a context, and lets the base read those."""
        contexts = ChainMap(self._of_step, self.contexts)  # not merged: there may be thousands
        self._answers: list[Segment] = []  # the positions that predict an answer's tokens
        read: list[list[int]] = []  # by the base
        for line, start, end in spans(inputs):
            row = tuple(inputs["input_ids"][line, start:end].tolist())
            if row in contexts:
                labels = inputs["labels"][line, start:end]
                first = int((labels != IGNORED).int().argmax())
                self._answers.append(Segment(line, start + first - 1, end - 1))
                read.append([*contexts[row], *row[first:]])
        lengths = [segment.end - segment.start for segment in self._answers]
        self._wanted = self._teacher(read, lengths)
        return inputs

    def _teacher(self, rows: list[list[int]], lengths: list[int]) -> NextTokens:
        """The base's distributions before the last `lengths` tokens of each row, all in one."""
        # With weights in parts, every process has to take part in every batch, whatever it remembers.
        together = is_sharded(self._model)
        new = [k for k, row in enumerate(rows) if together or tuple(row) not in self._known]
        if new or together:
            batch = [rows[k] for k in new] or [[0, 0]]
            segments = [Segment(i, len(rows[k]) - lengths[k] - 1, len(rows[k]) - 1) for i, k in enumerate(new)]
            with frozen(self._model) as base:
                found = next_tokens(base, at(last_hidden(base, batch), segments), TOP)
            start = 0
            for k in new:
                self._known[tuple(rows[k])] = found.rows(start, start + lengths[k])
                start += lengths[k]
        wanted = _joined([self._known[tuple(row)] for row in rows])
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return wanted

    @contextmanager
    def around_loss(self) -> Iterator[None]:
        """Replaces the log-probabilities of the answers' tokens, which the loss sums up, by what is to be maximised."""
        with hidden_states(self._model) as hidden:

            def replace(module: nn.Module, args: Any, output: Any) -> None:
                divergence = token_kl(self._model.get_base_model(), at(hidden.pop(), self._answers), self._wanted)
                self._divergences += divergence.tolist()
                places = [(s.line, position) for s in self._answers for position in range(s.start, s.end)]
                index = torch.tensor(places, dtype=torch.long, device=divergence.device).reshape(-1, 2).unbind(1)
                score = -divergence.to(output.log_probs.dtype)
                if self.objective == "both":
                    score = score + output.log_probs[index]
                output.log_probs = output.log_probs.index_put(index, score)

            hook = self._model.register_forward_hook(replace)
            try:
                yield
            finally:
                hook.remove()

    def log_values(self) -> dict[str, float]:
        """The mean divergence since the last line, over all processes."""
        values, self._divergences = gather_object(self._divergences), []
        return {"distillation/kl": sum(values) / len(values)} if values else {}


def _joined(parts: Sequence[NextTokens]) -> NextTokens:
    if not parts:
        return NextTokens(torch.empty(0, 1))
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return NextTokens(torch.cat([part.log_probs for part in parts]), torch.cat(tokens) if tokens else None)
