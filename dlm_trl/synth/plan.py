"""The requests of a run: `plan(document, settings, teacher)` lists all of them before the first one is sent.

The prose of a section becomes one request per strategy, or several if it is too long for the teacher; the section's
number of pairs is then split among its windows. A small local teacher can't write lists of pairs: it is asked about one
sentence at a time, with several ways to begin the question.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dlm_trl.asking import prompts as asking
from dlm_trl.asking.facts import Fact, facts
from dlm_trl.asking.language import foreign_language, is_english
from dlm_trl.asking.openings import openings
from dlm_trl.notes import Document, Section
from dlm_trl.notes.errors import UsageError
from dlm_trl.synth import prompts, view_prompts
from dlm_trl.synth.budget import max_prompt_tokens
from dlm_trl.synth.ledger import request_key
from dlm_trl.synth.prompts import Prompt, Strategy
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.view_kinds import ViewKind
from dlm_trl.synth.view_prompts import VIEW_PROMPT_VERSION
from dlm_trl.synth.windows import split_budget, windows
from dlm_trl.teachers.load import is_local, keeps_schema, writes_lists
from dlm_trl.teachers.protocol import Request, TeacherInfo

logger = logging.getLogger(__name__)

_MAX_PROSE = 16_000  # bytes of UTF-8 per request if the teacher's context is unknown: four to six thousand tokens
_MIN_SPLIT = 200  # bytes; shorter prose isn't what makes a prompt too long
_QUESTION_TOKENS = 32
_QUESTION_ENDS = ("?", "\n")

# The root is an object because some servers accept nothing else; the reply parser reads lists, too.
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
class PlannedRequest:
    """A request for n pairs, and where they belong.

    section_id: of the prose section. prose: the window of it in this request. adapter: the one the section trains, or
    None. fact: the sentence that the request asks a question about, or None for a request for a list of pairs.
    opening: how that question begins. kind: of the views that the request asks for, or None. about: the sentences that
    these views are about.
    """

    request: Request
    section_id: str
    strategy: Strategy
    prose: str
    n: int
    adapter: str | None = None
    fact: Fact | None = None
    opening: str = ""
    kind: ViewKind | None = None
    about: tuple[str, ...] = ()

    @property
    def subject(self) -> tuple[str, str]:
        """What requests have in common of which only one reply counts: a section's sentence, or the request itself."""
        return self.section_id, self.fact.sentence if self.fact else self.request.key


def plan(
    document: Document, settings: SynthSettings, teacher: TeacherInfo, only: Collection[str] | None = None
) -> list[PlannedRequest]:
    """All requests about the document's own prose (without `training.sources`), in file order.

    only: the sentences to ask about, if settings.uncovered. With `max_pairs`, requests are ordered so that any first
    part of the list covers the whole file, since the run may end early. Raises DlmError: PromptError for a prompt file
    that can't be used, UsageError if the teacher's context is too short.
    """
    prompt = prompts.own_prompt(settings.prompt)
    context = context_of(settings, teacher)
    ask = "sentences" if settings.uncovered else settings.ask
    by_sentence = not (writes_lists(teacher.reference, document) if ask is None else ask == "list")
    unique: dict[str, PlannedRequest] = {}  # by key, so that repeated prose is requested once
    for section in document.sections:
        prose = section.content.strip()
        if section.kind == "prose" and prose:
            for strategy, n_pairs in _pairs_per_strategy(settings):
                if by_sentence and strategy == "extraction" and prompt is None:
                    for planned in _about_sentences(section, settings, teacher, only):
                        unique.setdefault(planned.request.key, planned)
                    continue
                fits = partial(_fits, strategy=strategy, settings=settings, teacher=teacher, prompt=prompt)
                if not fits(prose[0]):
                    raise UsageError(
                        f"The teacher's context of {context} tokens is too short for the prompt and "
                        f"{settings.max_new_tokens} new tokens.",
                        hint="Lower --max-new-tokens, or choose a teacher with a longer context.",
                        path=document.path,
                    )
                pieces = windows(prose, fits)
                if n_pairs < len(pieces):
                    logger.warning(
                        "%s:%d: this prose takes %d requests, but only %d of them are made for %d %s pairs. Raise "
                        "--per-section, or divide the prose with `::prose::` lines, to cover all of it.",
                        document.path, section.content_line, len(pieces), n_pairs, n_pairs, strategy,
                    )  # fmt: skip
                for piece, n in _shared(n_pairs, pieces):
                    request = _request(prompts.pair_messages(piece, n, strategy, prompt), n, settings, teacher)
                    planned = PlannedRequest(request, section.section_id, strategy, piece, n, section.adapter)
                    unique.setdefault(request.key, planned)
    requests = list(unique.values())
    return requests if settings.max_pairs is None else _spread(requests)


def retry(
    planned: PlannedRequest, reply: str, problem: str, settings: SynthSettings, teacher: TeacherInfo
) -> PlannedRequest | None:
    """The second and last request after an unreadable reply; it quotes the reply and names the problem.

    None if that is too long for the teacher.
    """
    if planned.request.opening:
        return None  # a reply that continues an opening isn't a turn to answer
    reply = reply.encode(errors="replace").decode()  # JSON escapes can yield lone surrogates, which can't be sent
    correction = view_prompts.CORRECTION if planned.kind else prompts.CORRECTION
    messages = [
        *planned.request.messages,
        {"role": "assistant", "content": reply.strip() or "[]"},  # servers reject an empty turn
        {"role": "user", "content": correction.format(problem=problem)},
    ]
    context, tokens = context_of(settings, teacher), planned.request.max_new_tokens
    if context is not None and max_prompt_tokens(messages, teacher) + tokens > context:
        return None
    if planned.kind:
        return replace(planned, request=keyed_request(messages, tokens, settings, teacher, version=VIEW_PROMPT_VERSION))
    return replace(planned, request=_request(messages, planned.n, settings, teacher))


def split(planned: PlannedRequest, settings: SynthSettings, teacher: TeacherInfo) -> list[PlannedRequest]:
    """The request divided into several about parts of its prose, since it exceeded the teacher's context.

    Empty if the prose is too short to be the reason. Without enough pairs for every part, some parts get none.
    """
    size = len(planned.prose.encode())
    if size < _MIN_SPLIT or planned.kind:
        return []
    pieces = windows(planned.prose, lambda part: len(part.encode()) <= size // 2 + 1)
    prompt = prompts.own_prompt(settings.prompt)
    parts = []
    for piece, n in _shared(planned.n, pieces):
        request = _request(prompts.pair_messages(piece, n, planned.strategy, prompt), n, settings, teacher)
        parts.append(replace(planned, request=request, prose=piece, n=n))
    return parts


def _about_sentences(
    section: Section, settings: SynthSettings, teacher: TeacherInfo, only: Collection[str] | None
) -> Iterator[PlannedRequest]:
    """One request per sentence and opening; with `per_section`, about that many sentences, spread over the section."""
    continues, in_english = is_local(teacher.reference), is_english(section.content)
    found = [fact for fact in facts(section.content) if only is None or fact.sentence in only]
    n = len(found) if settings.per_section is None else min(settings.per_section, len(found))
    for fact in (found[i * len(found) // n] for i in range(n)):
        for opening in openings(fact.sentence, fact.names) if continues and in_english else [""]:
            if continues:
                messages, begin = asking.continued_questions(fact.context, opening)
            else:
                messages, begin = asking.question_messages(fact.context, foreign_language(section.content)), ""
            tokens = min(settings.max_new_tokens, _QUESTION_TOKENS)
            request = keyed_request(messages, tokens, settings, teacher, None, begin, _QUESTION_ENDS)
            yield PlannedRequest(
                request, section.section_id, "extraction", section.content.strip(), 1, section.adapter, fact, opening
            )


def _shared(n_pairs: int, pieces: Sequence[str]) -> list[tuple[str, int]]:
    """The pieces that get any of the pairs, each with its number of them."""
    budgets = split_budget(n_pairs, [len(piece) for piece in pieces])
    return [(piece, n) for piece, n in zip(pieces, budgets, strict=True) if n]


def context_of(settings: SynthSettings, teacher: TeacherInfo) -> int | None:
    """The most tokens that a prompt and its reply may have together; None if unknown."""
    return settings.context or teacher.context


def _request(messages: Sequence[Mapping[str, str]], n: int, settings: SynthSettings, teacher: TeacherInfo) -> Request:
    schema = _bounded(n) if keeps_schema(teacher.reference) else SCHEMA
    return keyed_request(messages, settings.max_new_tokens, settings, teacher, schema)


def keyed_request(
    messages: Sequence[Mapping[str, str]],
    max_new_tokens: int,
    settings: SynthSettings,
    teacher: TeacherInfo,
    schema: Mapping[str, Any] | None = None,
    opening: str = "",
    stop: tuple[str, ...] = (),
    version: int | str = prompts.PROMPT_VERSION,
) -> Request:
    """The request with its key in the ledger."""
    seed = settings.seed if settings.temperature else None  # greedy decoding ignores the seed
    parts = messages, max_new_tokens, settings.temperature, settings.top_p, seed, schema, opening, stop
    return Request(request_key(teacher, version, *parts), *parts)


def _bounded(n: int) -> Mapping[str, Any]:
    """The schema with at most n pairs, so that a model that repeats itself ends."""
    schema = deepcopy(dict(SCHEMA))
    schema["properties"]["pairs"] |= {"minItems": 1, "maxItems": n}
    return schema


def _pairs_per_strategy(settings: SynthSettings) -> list[tuple[Strategy, int]]:
    n = settings.per_list
    if settings.strategy == "both":
        return [("extraction", math.ceil(n / 2)), ("expansion", n // 2)]
    return [(settings.strategy, n)]


def _fits(prose: str, strategy: Strategy, settings: SynthSettings, teacher: TeacherInfo, prompt: Prompt | None) -> bool:
    context = context_of(settings, teacher)
    if context is None:
        return len(prose.encode()) <= _MAX_PROSE
    messages = prompts.pair_messages(prose, settings.per_list, strategy, prompt)
    return max_prompt_tokens(messages, teacher) + settings.max_new_tokens <= context


def _spread(requests: list[PlannedRequest]) -> list[PlannedRequest]:
    """Reorder the requests so that the sections of any first part of the list are far apart in the file."""
    sections = list(dict.fromkeys(planned.section_id for planned in requests))
    # Multiples of the golden ratio modulo one are evenly spread, however many you take (Kronecker sequence).
    position = {section: (i * 0.6180339887498949) % 1 for i, section in enumerate(sections)}
    subjects: dict[str, dict[tuple[str, str], int]] = {section: {} for section in sections}
    order = []
    for planned in requests:
        rounds = subjects[planned.section_id]
        order.append((rounds.setdefault(planned.subject, len(rounds)), position[planned.section_id]))
    return [requests[i] for i in sorted(range(len(requests)), key=lambda i: order[i])]
