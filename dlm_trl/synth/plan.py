"""What will be asked of the teacher: `plan(document, settings, teacher)` gives every request before one is sent.

A section's prose becomes one request for each strategy, or several where it is too long for the teacher; the
section's budget of pairs is then shared among its windows.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dlm_trl.notes import Document
from dlm_trl.notes.errors import UsageError
from dlm_trl.synth import prompts
from dlm_trl.synth.budget import most_tokens
from dlm_trl.synth.judge import check_reference
from dlm_trl.synth.ledger import request_key
from dlm_trl.synth.prompts import Prompt, Strategy
from dlm_trl.synth.windows import shares, windows
from dlm_trl.teachers.protocol import Request, TeacherInfo

logger = logging.getLogger(__name__)

Strategies = Literal["extraction", "expansion", "both"]
Filter = Literal["none", "dedup-only", "sway"]
# Where the teacher's context is not known: about four thousand tokens of prose in one request.
_LONGEST_PROSE = 16_000

# The root is an object, for some servers take no other; the reply parser reads either.
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                "required": ["question", "answer"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["pairs"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is told; the command line has an option for each field, with the same default."""

    teacher: str = "self"
    per_section: int = 3
    strategy: Strategies = "extraction"
    filter: Filter = "sway"
    threshold: float = 0.1
    max_pairs: int | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    fresh: bool = False
    concurrency: int = 16
    quantization: Literal["4bit", "8bit"] | None = None
    max_cost: float | None = None
    price: tuple[float, float] | None = None
    budget_tokens: int | None = None
    judge: str | None = None
    min_grounding: float | None = None
    prompt: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Raises DlmError (UsageError) for a value that no run can have."""
        choices = {"strategy": get_args(Strategies), "filter": get_args(Filter), "quantization": ("4bit", "8bit", None)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                expected = ", ".join(choice for choice in known if choice)
                raise UsageError(f"--{name} is {getattr(self, name)!r}.", hint=f"It must be one of {expected}.")
        check_reference(self.judge)
        positive = {"per_section": 1, "max_pairs": 1, "max_new_tokens": 1, "concurrency": 1, "temperature": 0}
        for name, least in {**positive, "max_cost": 0, "budget_tokens": 1}.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:  # nor is it nan
                raise UsageError(f"{_option(name)} is {value}.", hint=f"It must be a number of at least {least}.")
        for name in ("threshold", "min_grounding"):
            if math.isnan(getattr(self, name) or 0.0):
                raise UsageError(f"{_option(name)} is nan.", hint="It must be a number.")
        if self.price is not None and not all(0 <= price < math.inf for price in self.price):
            raise UsageError(f"--price is {self.price[0]},{self.price[1]}.", hint="They must be numbers of at least 0.")
        if any(c in self.teacher for c in '"\n\r'):
            raise UsageError(
                f"The teacher {self.teacher!r} cannot stand in a document.", hint="Use a name without quotes."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p is {self.top_p}.", hint="It must be above 0 and at most 1.")
        if self.max_cost is not None and self.price is None:
            raise UsageError("--max-cost needs prices.", hint="Add --price IN,OUT: what a million tokens cost.")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request and where its pairs belong: n pairs about prose, a window of the section of this id, which trains
    this adapter where it names one.
    """

    request: Request
    section_id: str
    strategy: Strategy
    prose: str
    n: int
    adapter: str | None = None


def plan(document: Document, settings: Settings, teacher: TeacherInfo) -> list[Ask]:
    """All requests about the document's own prose (not that of `training.sources`), in the order of the file.

    With `max_pairs` the sections come in an order that is spread over the file, since the run may end before the
    last. Raises DlmError: PromptError where the prompt file is no template, UsageError where the teacher's context is
    too short.
    """
    prompt = None if settings.prompt is None else prompts.read_prompt(Path(settings.prompt))
    found: dict[str, Ask] = {}  # by the request's key: prose that comes twice is asked about once
    for section in document.sections:
        prose = section.content.strip()
        if section.kind == "prose" and prose:
            for strategy, budget in _budgets(settings):
                if not _fits(prose[0], strategy, settings, teacher, prompt):
                    raise UsageError(
                        f"The teacher reads {teacher.context} tokens, too few for the prompt and "
                        f"{settings.max_new_tokens} new ones.",
                        hint="Lower --max-new-tokens, or choose a teacher with a longer context.",
                        path=document.path,
                    )
                pieces = windows(prose, lambda text, s=strategy: _fits(text, s, settings, teacher, prompt))
                if budget < len(pieces):
                    logger.warning(
                        "%s:%d: this prose has %d parts of the length that the teacher reads, and %d %s pairs reach no "
                        "more than %d of them. More --per-section, or `::prose::` lines within it, reach them all.",
                        document.path, section.content_line, len(pieces), budget, strategy, budget,
                    )  # fmt: skip
                for piece, n in zip(pieces, shares(budget, [len(p) for p in pieces]), strict=True):
                    if n:
                        messages = prompts.pair_messages(piece, n, strategy, prompt)
                        request = _request(messages, settings, teacher)
                        ask = Ask(request, section.section_id, strategy, piece, n, section.adapter)
                        found.setdefault(request.key, ask)
    asks = list(found.values())
    return asks if settings.max_pairs is None else _spread(asks)


def again(ask: Ask, reply: str, problem: str, settings: Settings, teacher: TeacherInfo) -> Ask | None:
    """The second and last request for pairs whose first reply could not be read, with that reply and what is wrong.

    None where all of this is more than the teacher reads.
    """
    said = reply.encode(errors="replace").decode()  # half a surrogate pair comes out of JSON, but no text can send it
    messages = [
        *ask.request.messages,
        {"role": "assistant", "content": said.strip() or "[]"},  # servers refuse an empty turn
        {"role": "user", "content": prompts.CORRECTION.format(problem=problem)},
    ]
    if teacher.context is not None and most_tokens(messages, teacher) + settings.max_new_tokens > teacher.context:
        return None
    return replace(ask, request=_request(messages, settings, teacher))


def _request(messages: Sequence[Mapping[str, str]], settings: Settings, teacher: TeacherInfo) -> Request:
    seed = settings.seed if settings.temperature else None  # the likeliest token needs no luck
    sampling = settings.max_new_tokens, settings.temperature, settings.top_p, seed
    key = request_key(teacher, prompts.PROMPT_VERSION, messages, *sampling)
    return Request(key, messages, *sampling, SCHEMA)


def _budgets(settings: Settings) -> list[tuple[Strategy, int]]:
    n = settings.per_section
    if settings.strategy == "both":
        return [("extraction", math.ceil(n / 2)), ("expansion", n // 2)]
    return [(settings.strategy, n)]


def _fits(prose: str, strategy: Strategy, settings: Settings, teacher: TeacherInfo, prompt: Prompt | None) -> bool:
    if teacher.context is None:
        return len(prose) <= _LONGEST_PROSE
    messages = prompts.pair_messages(prose, settings.per_section, strategy, prompt)
    return most_tokens(messages, teacher) + settings.max_new_tokens <= teacher.context


def _spread(asks: list[Ask]) -> list[Ask]:
    """Asks so reordered that the sections of every beginning of the list lie far apart in the file."""
    sections = list(dict.fromkeys(ask.section_id for ask in asks))
    # The golden ratio's multiples, modulo one, are spread evenly however many one takes (Kronecker's sequence).
    place = {section: (i * 0.6180339887498949) % 1 for i, section in enumerate(sections)}
    turns: dict[str, int] = {}
    order = []
    for ask in asks:
        turn = turns[ask.section_id] = turns.get(ask.section_id, -1) + 1
        order.append((turn, place[ask.section_id]))
    return [asks[i] for i in sorted(range(len(asks)), key=lambda i: order[i])]


def _option(name: str) -> str:
    return f"--{'temp' if name == 'temperature' else name.replace('_', '-')}"
