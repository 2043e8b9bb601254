"""What a run would request and cost, without sending requests or loading weights: `estimate(path, settings)`."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

from dlm_trl.notes import read
from dlm_trl.synth.budget import cost_of, max_usage
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.report import SOURCES_NOT_ASKED
from dlm_trl.synth.run import check
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.starting_point import starting_point
from dlm_trl.teachers.load import inspect_teacher, is_local
from dlm_trl.teachers.protocol import Usage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate for one document: its requests, those in the ledger, and an upper bound for the rest.

    The bound leaves out the retry after an unreadable reply, and a limit (pairs, tokens, cost) may end the run earlier.
    sentences: how many are asked about one by one, each in one or more requests. from_ledger: requests that the ledger
    answers, or has in a batch that this run would collect. exact: the prompts were counted with the teacher's tokenizer
    (otherwise one token per byte). cost: None without prices. seconds: None in batches, and if the ledger has no timing
    of this teacher on this document.
    """

    path: Path
    teacher: str
    sections: int
    sentences: int
    requests: int
    from_ledger: int
    max_usage: Usage
    exact: bool
    cost: float | None
    seconds: float | None


def estimate(path: str | os.PathLike[str], settings: SynthSettings) -> Estimate:
    """Estimate a run on this document.

    Raises DlmError as `synthesize` does before its first request, except for errors that only loading the weights or
    contacting the server would reveal.
    """
    document = read(path)
    check(document, settings)
    teacher = inspect_teacher(settings.teacher, document, settings.quantization)
    if not teacher.revision:
        hint = "Name the model to see which requests the ledger answers: vllm-server:URL#MODEL."
        logger.warning("The server's model is unknown until it is asked. %s", hint)
    start = starting_point(document, settings, teacher)
    requests, found = start.requests, start.coverage if settings.uncovered or settings.views else None
    if found and settings.views and found.sentences and not requests:
        logger.warning("%s: all %d sentences have their views.", path, len(found.sentences))
    elif found and found.sentences and not requests:
        logger.warning("%s: all %d sentences are asked about.", path, len(found.sentences))
    elif not requests and document.frontmatter.training.sources:
        logger.warning("%s: no prose to ask about: %s", path, SOURCES_NOT_ASKED)
    ledger = Ledger(document)
    keys = {planned.request.key for planned in requests}
    if not settings.fresh:
        keys = {key for key in keys if ledger.get(key) is None}
        keys -= ledger.batches.open(keys) if settings.batch else set()
    new = [planned for planned in requests if planned.request.key in keys]
    usage = sum((max_usage(planned.request, teacher) for planned in new), Usage())
    # A reply from a batch has no time of its own.
    timings = [
        entry["seconds"]
        for entry in ledger.entries()
        if entry["facts"].get("teacher") == settings.teacher and entry["seconds"] and not settings.batch
    ]
    in_flight = 1 if is_local(settings.teacher) else settings.concurrency
    return Estimate(
        path=Path(path),
        teacher=settings.teacher,
        sections=len({planned.section_id for planned in requests}),
        sentences=len({planned.subject for planned in requests if planned.fact}),
        requests=len(requests),
        from_ledger=len(requests) - len(new),
        max_usage=usage,
        exact=teacher.count_tokens([{"role": "user", "content": ""}]) is not None,
        cost=cost_of(usage, settings.paid_price),
        seconds=sum(timings) / len(timings) * math.ceil(len(new) / in_flight) if timings else None,
    )
