"""The requests for views of facts: `plan_views(document, settings, teacher, existing_views(…))`.

Each sentence of the prose gets a request for each kind of view that it lacks, and each section one for its summary,
which counts for all of its sentences. Only views that a teacher wrote are shown to it again, never the author's pairs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from dlm_trl.asking.facts import Fact, background, facts
from dlm_trl.asking.language import foreign_language, is_english
from dlm_trl.asking.openings import reverse_question
from dlm_trl.notes import Document, Section
from dlm_trl.notes.errors import UsageError
from dlm_trl.rows.views import ProseView
from dlm_trl.synth.budget import max_usage
from dlm_trl.synth.coverage import Coverage
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.plan import PlannedRequest, context_of, keyed_request
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.staging import Staged
from dlm_trl.synth.view_kinds import ViewKind, shares
from dlm_trl.synth.view_prompts import MAX_LINES, STOP, TOKENS, VIEW_PROMPT_VERSION, view_messages
from dlm_trl.synth.windows import windows
from dlm_trl.teachers.load import is_local
from dlm_trl.teachers.protocol import Request, TeacherInfo

_MAX_PROSE = 8_000  # bytes of a text to sum up, if the teacher's context is unknown


@dataclass(frozen=True, slots=True)
class Existing:
    """The views that there are. counts: by sentence and kind, the author's pairs included. written: by a teacher."""

    counts: Mapping[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    written: Mapping[tuple[str, str], list[QAPair]] = field(default_factory=lambda: defaultdict(list))


def existing_views(found: Coverage, items: Sequence[Staged], texts: Sequence[ProseView]) -> Existing:
    """The views of each sentence. found: with these texts. items: the synthesised pairs, applied and staged."""
    existing = Existing({sentence.text: sentence.views for sentence in found.sentences})
    for item in items:
        for sentence in item.facts:
            existing.written[sentence, item.kind or "question"].append(item.pair)
    for text in texts:
        for sentence in text.facts:
            existing.written[sentence, text.kind].append(QAPair("", text.text))
    return existing


def plan_views(
    document: Document, settings: SynthSettings, teacher: TeacherInfo, existing: Existing
) -> list[PlannedRequest]:
    """The requests for the views that are missing, in file order.

    Raises DlmError (UsageError) if the teacher's context is too short for a prompt.
    """
    assert settings.views is not None
    unique: dict[str, PlannedRequest] = {}  # by key, so that repeated prose is requested once
    for section in document.sections:
        found = list(facts(section.content)) if section.kind == "prose" else []
        if settings.sentences is not None:
            found = [fact for fact in found if fact.sentence in settings.sentences]
        # The summary of one sentence would be a rewrite.
        kinds = [kind for kind in settings.kinds if kind != "summary" or len(found) > 1]
        wanted = shares(settings.views, kinds)
        for fact in found:
            counts = existing.counts.get(fact.sentence, Counter())
            for kind, n in wanted.items():
                if kind != "summary" and n > counts[kind]:
                    written = existing.written.get((fact.sentence, kind), [])
                    planned = _about_fact(section, fact, kind, n - counts[kind], written, settings, teacher)
                    unique.setdefault(planned.request.key, planned)
        for planned in _summaries(section, found, wanted.get("summary", 0), existing, settings, teacher):
            unique.setdefault(planned.request.key, planned)
    return list(unique.values())


def _about_fact(
    section: Section,
    fact: Fact,
    kind: ViewKind,
    n: int,
    written: Sequence[QAPair],
    settings: SynthSettings,
    teacher: TeacherInfo,
) -> PlannedRequest:
    prose, about = section.content.strip(), (fact.sentence,)
    planned = _planned(kind, fact.sentence, background(fact), written, n, prose, about, section, settings, teacher)
    request = planned.request
    if not _fits(request, settings, teacher):
        raise UsageError(
            f"The teacher's context of {context_of(settings, teacher)} tokens is too short for a prompt with examples "
            f"and {request.max_new_tokens} new tokens.",
            hint="Choose a teacher with a longer context, or fewer --views.",
        )
    return planned


def _summaries(
    section: Section,
    found: Sequence[Fact],
    wanted: int,
    existing: Existing,
    settings: SynthSettings,
    teacher: TeacherInfo,
) -> Iterator[PlannedRequest]:
    """The requests for summaries of a section, or of each part of one that is too long for the teacher."""
    if not wanted or not found:
        return
    sentences = [fact.sentence for fact in found]
    summary = partial(_planned, "summary", before="", section=section, settings=settings, teacher=teacher)

    def fits(text: str) -> bool:
        is_short = len(text.encode()) <= _MAX_PROSE or context_of(settings, teacher) is not None
        return is_short and _fits(summary(text, written=(), n=wanted, prose=text, about=()).request, settings, teacher)

    for part in windows(section.content.strip(), fits):
        about = tuple(fact.sentence for fact in facts(part) if fact.sentence in sentences)
        n = wanted - min((existing.counts.get(sentence, Counter())["summary"] for sentence in about), default=wanted)
        if n > 0:
            written = existing.written.get((about[0], "summary"), [])
            yield summary(part, written=written, n=n, prose=part, about=about)


def _planned(
    kind: ViewKind,
    text: str,
    before: str,
    written: Sequence[QAPair],
    n: int,
    prose: str,
    about: tuple[str, ...],
    section: Section,
    settings: SynthSettings,
    teacher: TeacherInfo,
) -> PlannedRequest:
    continues = is_local(teacher.reference)
    reverse = reverse_question(text) if kind == "reverse" and not written and is_english(section.content) else None
    seed = QAPair(*reverse) if reverse else None
    language = foreign_language(section.content)
    messages, opening, lines = view_messages(kind, text, before, written, n, language, continues, seed)
    tokens = min(settings.max_new_tokens, TOKENS[kind] * (min(n, MAX_LINES) if continues else n))
    stop = STOP if continues else ()
    request = keyed_request(
        messages, tokens, settings, teacher, opening=opening, stop=stop, version=VIEW_PROMPT_VERSION
    )
    return PlannedRequest(
        request, section.section_id, "extraction", prose, n, section.adapter, opening=lines, kind=kind, about=about
    )


def _fits(request: Request, settings: SynthSettings, teacher: TeacherInfo) -> bool:
    context, usage = context_of(settings, teacher), max_usage(request, teacher)
    return context is None or usage.prompt_tokens + usage.completion_tokens <= context
