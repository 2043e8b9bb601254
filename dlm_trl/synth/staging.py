"""Staged pairs: accepted, waiting for review, not yet in the document. `stage`, `staged`, `drop`, `clear`, `applied`.

    stage(document, candidates, synth_at=now())
    for item in staged(document): print(item.section_id[:8], item.pair.question, item.scores)
    drop(document, resolve_ids(["3f2a"], [item.section_id for item in staged(document)]))

They are kept in the format's `pending.json`, which the reference implementation reads and writes, too. What it has no
field for (scores, the originating request, the pair before it was edited) is in `pending_scores.json` next to it, by
the pair's section id, and stays there after the pair leaves staging.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dlm_trl.asking.facts import facts
from dlm_trl.notes import Document, Section
from dlm_trl.notes.blocks import read_pairs
from dlm_trl.notes.document import section_id
from dlm_trl.notes.errors import DlmError, UsageError
from dlm_trl.synth.matching import Matcher
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.staging_files import (
    Entry,
    Origin,
    Origins,
    Plan,
    damaged,
    load,
    load_origins,
    locked_staging,
    pending_path,
    save_origins,
    save_plan,
)


@dataclass(frozen=True, slots=True)
class Staged:
    """A synthesised pair, staged or applied.

    section_id: of its own section. source_section_id: of its prose. request_key: of its reply in the ledger. index:
    its position in that reply. prose_sha: SHA-256 of the prose the teacher read. limits: the least that its scores had
    to be, by their name. These last four and the scores are None if another program staged the pair; the scores also
    without a judge. facts: the sentences that the pair asks about, verbatim; empty if unknown. kind: of a view of a
    fact, or None. edited_from: the pair as it was before a person edited it, which the scores are about; None if nobody
    did.
    """

    section_id: str
    pair: QAPair
    teacher: str
    strategy: str
    synth_at: str
    source_section_id: str
    adapter: str | None = None
    scores: Scores | None = None
    request_key: str | None = None
    index: int | None = None
    prose_sha: str | None = None
    limits: dict[str, float] | None = None
    facts: tuple[str, ...] = ()
    kind: str | None = None
    edited_from: QAPair | None = None


def stage(document: Document, candidates: Sequence[Candidate], synth_at: str) -> list[Staged]:
    """Stage these pairs, and return those that were neither staged nor in the document before.

    synth_at: time of the run, ISO 8601, UTC. Raises DlmError as `staged` does, and DlmWriteError.
    """
    return stage_items(document, as_staged(document, candidates, synth_at))


def stage_items(document: Document, items: Sequence[Staged]) -> list[Staged]:
    """`stage` for what `as_staged` returned.

    A known pair is recorded anew if it comes from another sentence now: an edit may leave its words as they were.
    """
    with locked_staging(document):
        plan, origins = load(document)
        known = {section.bare_id for section in document.sections}
        known |= {item.section_id for item in _staged(document, plan, origins)}
        added: Origins = {}
        renewed: Origins = {}
        for item in items:
            if item.section_id not in known and item.section_id not in added:
                plan.sections.append(_entry(item))
                added[item.section_id] = _origin(item)
            elif item.section_id in origins and item.section_id not in added:
                renewed[item.section_id] = _origin(item)
        renewed = {own_id: origin for own_id, origin in renewed.items() if origin.facts != origins[own_id].facts}
        origins |= added | renewed
        if added or renewed:
            # Origins first: if the process is killed in between, only an unused origin is left.
            save_origins(document, origins)
        save_plan(document, plan)  # even if nothing is new, to record the new path of a document that was moved
        return [item for item in _staged(document, plan, origins) if item.section_id in added]


def restage(document: Document, item: Staged, position: int | None = None) -> None:
    """Stage this pair with all that is known of it, at this position among the staged ones; default: as the last.

    Nothing changes if it is staged already. Raises as `stage` does.
    """
    with locked_staging(document):
        plan, origins = load(document)
        if any(known.section_id == item.section_id for known in _staged(document, plan, origins)):
            return
        plan.sections.insert(len(plan.sections) if position is None else position, _entry(item))
        origin = _origin(item)
        if origin != origins.get(item.section_id, _NO_ORIGIN):
            save_origins(document, origins | {item.section_id: origin})
        save_plan(document, plan)


def as_staged(document: Document, candidates: Sequence[Candidate], synth_at: str) -> list[Staged]:
    """These candidates as `stage` would record them."""
    matcher = _matchers(document)
    return [
        Staged(
            section_id("instruction", _content(candidate.pair)),
            candidate.pair,
            teacher=candidate.teacher,
            strategy=candidate.strategy,
            synth_at=synth_at,
            source_section_id=candidate.section_id,
            adapter=candidate.adapter,
            scores=candidate.scores,
            request_key=candidate.request_key,
            index=candidate.index,
            prose_sha=hashlib.sha256(candidate.prose.encode()).hexdigest(),
            limits=candidate.limits,
            facts=_about(candidate, matcher),
            kind=candidate.kind,
        )
        for candidate in candidates
    ]


def edited(item: Staged, pair: QAPair) -> Staged:
    """The item with this pair in place of its own, and the same provenance. pair: returned by `make_safe`."""
    before = item.edited_from or item.pair
    return replace(
        item,
        section_id=section_id("instruction", _content(pair)),
        pair=pair,
        edited_from=None if pair == before else before,
    )


def staged(document: Document) -> list[Staged]:
    """The pairs staged for this document, oldest first.

    Raises DlmError: LedgerError if they were staged for another file with the same dlm_id, StagingError if a staging
    file is damaged.
    """
    return _staged(document, *load(document))


def drop(document: Document, section_ids: Sequence[str]) -> int:
    """Unstage the pairs with these section ids, and return their number. Raises as `stage` does."""
    with locked_staging(document):
        plan, origins = load(document)
        unwanted = set(section_ids)
        is_dropped = [item.section_id in unwanted for item in _staged(document, plan, origins)]
        if any(is_dropped):
            plan.sections = [entry for entry, drop_it in zip(plan.sections, is_dropped, strict=True) if not drop_it]
            save_plan(document, plan)
        return sum(is_dropped)


def clear(document: Document) -> int:
    """Unstage everything, and return the number of pairs. Raises as `stage` does."""
    return drop(document, [item.section_id for item in staged(document)])


def applied(document: Document) -> list[Staged]:
    """The synthesised pairs in the document, in file order.

    Raises DlmError: InstructionParseError for a malformed section, StagingError.
    """
    origins = load_origins(document)
    return [
        # bare_id, because trailing blank lines change when something is added after the pair.
        _item(section.bare_id, QAPair(pair.question, pair.answer), section.provenance, section.adapter, origins)
        for section in document.sections
        if section.auto_synth
        for pair in section.pairs()
    ]


def line_after_pair(document: Document, sections: Sequence[Section]) -> int | None:
    """The file line of the first text in these sections that someone added after a pair that was staged here, or None.

    A section runs to the next fence, so text added at the end of a file belongs to the last pair's section. Text is not
    found in sections whose pair was edited or staged elsewhere. Raises DlmError (StagingError).
    """
    origins = load_origins(document)
    for section in sections:
        lines = [] if section.bare_id in origins else section.content.split("\n")
        for i in range(len(lines)):
            if section_id("instruction", "\n".join(lines[:i])) in origins:
                if added := [k for k in range(i, len(lines)) if lines[k].strip()]:
                    return section.content_line + added[0]
                break
    return None


def resolve_ids(ids: Sequence[str], known: Sequence[str]) -> list[str]:
    """The full ids for these id prefixes, without repeats.

    Raises DlmError (UsageError) for a prefix that matches no id, or several.
    """
    resolved: dict[str, None] = {}
    for prefix in ids:
        matches = sorted({full for full in known if prefix and full.startswith(prefix.lower())})
        if len(matches) != 1:
            ambiguous = f"Several ids start with {prefix!r}: {', '.join(matches)}."
            raise UsageError(
                ambiguous if matches else f"No id starts with {prefix!r}.",
                hint="Give more digits." if matches else "`dlm-trl synth list FILE` shows the ids.",
            )
        resolved[matches[0]] = None
    return list(resolved)


def _content(pair: QAPair) -> str:
    return f"### Q\n{pair.question}\n### A\n{pair.answer}"


def _matchers(document: Document) -> Callable[[str], Matcher]:
    """For the id of a prose section, what finds the sentences in it that a pair asks about."""
    prose = {section.section_id: section.content for section in document.sections if section.kind == "prose"}
    return cache(lambda section_id: Matcher(facts(prose.get(section_id, ""))))


def _about(candidate: Candidate, matcher: Callable[[str], Matcher]) -> tuple[str, ...]:
    """The sentences that a candidate asks about; found by its words if it comes from a list."""
    if candidate.about:
        return candidate.about
    asked = [candidate.fact] if candidate.fact else matcher(candidate.section_id).match(*candidate.pair)
    return tuple(fact.sentence for fact in asked)


def _origin(item: Staged) -> Origin:
    return Origin(**{name: getattr(item, name) for name in Origin.model_fields})


_NO_ORIGIN = Origin(scores=None)


def _entry(item: Staged) -> Entry:
    return Entry(
        content=_content(item.pair),
        adapter=item.adapter,
        synth_teacher=item.teacher,
        synth_strategy=item.strategy,
        synth_at=item.synth_at,
        source_section_id=item.source_section_id,
    )


def _staged(document: Document, plan: Plan, origins: Origins) -> list[Staged]:
    items = []
    for number, entry in enumerate(plan.sections, start=1):
        try:
            ((question, answer, *_),) = read_pairs(entry.content, 1)
        except (DlmError, ValueError):
            raise damaged(pending_path(document), f"Section {number} is not one question with one answer.") from None
        pair = QAPair(question, answer)
        # From the pair, not the entry's content, which another program may format differently than `apply` does.
        own_id = section_id("instruction", _content(pair))
        items.append(_item(own_id, pair, entry.model_dump(), entry.adapter, origins))
    return items


def _item(own_id: str, pair: QAPair, marker: Mapping[str, Any], adapter: str | None, origins: Origins) -> Staged:
    item = Staged(
        own_id,
        pair,
        teacher=marker["synth_teacher"],
        strategy=marker["synth_strategy"],
        synth_at=marker["synth_at"],
        source_section_id=marker["source_section_id"],
        adapter=adapter,
    )
    return replace(item, **dict(origins[own_id])) if own_id in origins else item
