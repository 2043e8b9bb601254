"""What a run would ask and cost, without a request and without weights: `estimate("notes.dlm", Settings(…))`."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

from dlm_trl.notes import read
from dlm_trl.synth.budget import bound_of, price_of
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.plan import Settings, plan
from dlm_trl.synth.run import check
from dlm_trl.teachers.load import inspect_teacher, is_self
from dlm_trl.teachers.protocol import Usage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Estimate:
    """For one document: requests, how many of them the ledger answers, and the most that the others can use.

    Not in it: the second request about a reply that cannot be read. A limit (pairs, tokens, cost) may end a run before
    its last request. exact says whether the prompts were counted by the teacher's own tokenizer (else a byte counts as
    a token). cost is None without prices, seconds None where this teacher was never measured on this document.
    """

    path: Path
    teacher: str
    sections: int
    requests: int
    remembered: int
    most: Usage
    exact: bool
    cost: float | None
    seconds: float | None


def estimate(path: str | os.PathLike[str], settings: Settings) -> Estimate:
    """The estimate for the document at this path. Raises DlmError as `synthesize` does before its first request, but
    for what weights and servers tell.
    """
    document = read(path)
    check(document, settings)
    teacher = inspect_teacher(settings.teacher, document, settings.quantization)
    if not teacher.revision:
        hint = "Name it to see which requests the ledger answers: vllm-server:URL#MODEL."
        logger.warning("Which model the server has is not known before it is asked. %s", hint)
    asks = plan(document, settings, teacher)
    ledger = Ledger(document)
    new = [ask for ask in asks if settings.fresh or ledger.get(ask.request.key) is None]
    most = sum((bound_of(ask.request, teacher) for ask in new), Usage())
    measured = [e["seconds"] for e in ledger.entries() if e["facts"].get("teacher") == settings.teacher]
    at_once = 1 if is_self(settings.teacher) or settings.teacher.startswith("hf:") else settings.concurrency
    return Estimate(
        path=Path(path),
        teacher=settings.teacher,
        sections=len({ask.section_id for ask in asks}),
        requests=len(asks),
        remembered=len(asks) - len(new),
        most=most,
        exact=teacher.count_tokens([{"role": "user", "content": ""}]) is not None,
        cost=price_of(most, settings.price),
        seconds=sum(measured) / len(measured) * math.ceil(len(new) / at_once) if measured else None,
    )
