"""Staged pairs: accepted, waiting for review, not yet in the document. `stage`, `staged`, `drop`, `clear`, `applied`.

    stage(document, candidates, synth_at=now())
    for item in staged(document): print(item.section_id[:8], item.pair.question, item.scores)
    drop(document, resolve_ids(["3f2a"], [item.section_id for item in staged(document)]))

They are kept in the format's `pending.json`, which the reference implementation reads and writes, too. What it has no
field for (scores, the originating request) is in `pending_scores.json` next to it, by the pair's section id, and stays
there after the pair leaves staging.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dlm_trl.notes import Document, Section
from dlm_trl.notes.blocks import read_pairs
from dlm_trl.notes.document import section_id
from dlm_trl.notes.errors import DlmError, StagingError, UsageError
from dlm_trl.notes.files import locked, replace_file, write_error
from dlm_trl.notes.parser import read_bytes
from dlm_trl.notes.schema import AdapterName
from dlm_trl.notes.store import synth_dir
from dlm_trl.synth.facts import facts
from dlm_trl.synth.ledger import check_owner, make_folder, now, source_path
from dlm_trl.synth.matching import Matcher
from dlm_trl.synth.pairs import Candidate, QAPair, Scores


@dataclass(frozen=True, slots=True)
class Staged:
    """A synthesised pair, staged or applied.

    section_id: of its own section. source_section_id: of its prose. request_key: of its reply in the ledger. index:
    its position in that reply. prose_sha: SHA-256 of the prose the teacher read. limits: the least that its scores had
    to be, by their name. These last four and the scores are None if another program staged the pair; the scores also
    without a judge. facts: the sentences that the pair asks about, verbatim; empty if unknown. kind: of a view of a
    fact, or None.
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


Text = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    """One section in pending.json: the fields of a synthesised pair, and those that must be empty."""

    model_config = ConfigDict(extra="allow")

    type: Literal["instruction"] = "instruction"
    content: Text
    start_line: int = 0
    adapter: AdapterName | None = None
    tags: dict[str, str] = {}
    auto_harvest: Literal[False] = False
    harvest_source: None = None
    auto_mined: Literal[False] = False
    judge_name: None = None
    judge_score_chosen: None = None
    judge_score_rejected: None = None
    mined_at: None = None
    mined_run_id: None = None
    auto_synth: Literal[True] = True
    synth_teacher: Text
    synth_strategy: Text
    synth_at: Text
    source_section_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    media_path: None = None
    media_alt: None = None
    media_blob_sha: None = None
    media_transcript: None = None


class _Plan(BaseModel):
    """The whole of pending.json."""

    model_config = ConfigDict(extra="allow")

    schema_version: Literal[1] = 1
    source_path: Text
    created_at: Text
    sections: list[_Entry] = []


class _Origin(BaseModel):
    """One pair in pending_scores.json."""

    scores: Scores | None
    request_key: str
    index: int
    prose_sha: str
    limits: dict[str, float] | None = None  # earlier versions didn't keep them
    facts: tuple[str, ...] = ()
    kind: str | None = None


_Origins = dict[str, _Origin]
_PLAN, _ORIGINS = TypeAdapter(_Plan), TypeAdapter(_Origins)


def stage(document: Document, candidates: Sequence[Candidate], synth_at: str) -> list[Staged]:
    """Stage these pairs, and return those that were neither staged nor in the document before.

    A known pair is recorded anew if it comes from another sentence now: an edit may leave its words as they were.

    synth_at: time of the run, ISO 8601, UTC. Raises DlmError as `staged` does, and DlmWriteError.
    """
    with _locked(document):
        plan, origins = _load(document)
        known = {section.bare_id for section in document.sections}
        known |= {item.section_id for item in _staged(document, plan, origins)}
        added: _Origins = {}
        renewed: _Origins = {}
        matcher = _matchers(document)
        for candidate in candidates:
            own_id = section_id("instruction", _content(candidate.pair))
            if own_id not in known and own_id not in added:
                plan.sections.append(_entry(candidate, synth_at))
                added[own_id] = _origin(candidate, matcher)
            elif own_id in origins and own_id not in added:
                again = _origin(candidate, matcher)
                if again.facts != origins[own_id].facts:
                    renewed[own_id] = again
        origins |= added | renewed
        if added or renewed:
            # Origins first: if the process is killed in between, only an unused origin is left.
            _write(_origins_path(document), _ORIGINS.dump_python(origins))
        _save(document, plan)  # even if nothing is new, to record the new path of a document that was moved
        return [item for item in _staged(document, plan, origins) if item.section_id in added]


def staged(document: Document) -> list[Staged]:
    """The pairs staged for this document, oldest first.

    Raises DlmError: LedgerError if they were staged for another file with the same dlm_id, StagingError if a staging
    file is damaged.
    """
    return _staged(document, *_load(document))


def drop(document: Document, section_ids: Sequence[str]) -> int:
    """Unstage the pairs with these section ids, and return their number. Raises as `stage` does."""
    with _locked(document):
        plan, origins = _load(document)
        unwanted = set(section_ids)
        is_dropped = [item.section_id in unwanted for item in _staged(document, plan, origins)]
        if any(is_dropped):
            plan.sections = [entry for entry, drop_it in zip(plan.sections, is_dropped, strict=True) if not drop_it]
            _save(document, plan)
        return sum(is_dropped)


def clear(document: Document) -> int:
    """Unstage everything, and return the number of pairs. Raises as `stage` does."""
    return drop(document, [item.section_id for item in staged(document)])


def applied(document: Document) -> list[Staged]:
    """The synthesised pairs in the document, in file order.

    Raises DlmError: InstructionParseError for a malformed section, StagingError.
    """
    origins = _read(_origins_path(document), _ORIGINS) or {}
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
    origins = _read(_origins_path(document), _ORIGINS) or {}
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
                hint="Give more digits." if matches else "`dlm-trl synth list FILE` shows the ids of pairs.",
            )
        resolved[matches[0]] = None
    return list(resolved)


def _content(pair: QAPair) -> str:
    return f"### Q\n{pair.question}\n### A\n{pair.answer}"


def _matchers(document: Document) -> Callable[[str], Matcher]:
    """For the id of a prose section, what finds the sentences in it that a pair asks about."""
    prose = {section.section_id: section.content for section in document.sections if section.kind == "prose"}
    return cache(lambda section_id: Matcher(facts(prose.get(section_id, ""))))


def _origin(candidate: Candidate, matcher: Callable[[str], Matcher]) -> _Origin:
    if candidate.about:
        about = candidate.about
    else:
        asked = [candidate.fact] if candidate.fact else matcher(candidate.section_id).match(*candidate.pair)
        about = tuple(fact.sentence for fact in asked)
    return _Origin(
        scores=candidate.scores,
        request_key=candidate.request_key,
        index=candidate.index,
        prose_sha=hashlib.sha256(candidate.prose.encode()).hexdigest(),
        limits=candidate.limits,
        facts=about,
        kind=candidate.kind,
    )


def _entry(candidate: Candidate, synth_at: str) -> _Entry:
    return _Entry(
        content=_content(candidate.pair),
        adapter=candidate.adapter,
        synth_teacher=candidate.teacher,
        synth_strategy=candidate.strategy,
        synth_at=synth_at,
        source_section_id=candidate.section_id,
    )


def _staged(document: Document, plan: _Plan, origins: _Origins) -> list[Staged]:
    items = []
    for number, entry in enumerate(plan.sections, start=1):
        try:
            ((question, answer, *_),) = read_pairs(entry.content, 1)
        except (DlmError, ValueError):
            raise _damaged(_pending_path(document), f"Section {number} is not one question with one answer.") from None
        pair = QAPair(question, answer)
        # From the pair, not the entry's content, which another program may format differently than `apply` does.
        own_id = section_id("instruction", _content(pair))
        items.append(_item(own_id, pair, entry.model_dump(), entry.adapter, origins))
    return items


def _item(own_id: str, pair: QAPair, marker: Mapping[str, Any], adapter: str | None, origins: _Origins) -> Staged:
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


def _pending_path(document: Document) -> Path:
    return synth_dir(document.frontmatter.dlm_id) / "pending.json"


def _origins_path(document: Document) -> Path:
    return _pending_path(document).with_name("pending_scores.json")


@contextmanager
def _locked(document: Document) -> Iterator[None]:
    """Hold the lock of the staging files."""
    path = _pending_path(document)
    make_folder(path.parent)
    with locked(path):
        yield


def _load(document: Document) -> tuple[_Plan, _Origins]:
    """Both files; the plan's source_path becomes this document's."""
    source, path = source_path(document), _pending_path(document)
    plan = _read(path, _PLAN) or _Plan(source_path=source, created_at=now())
    check_owner(document, plan.source_path, path)
    plan.source_path = source
    return plan, _read(_origins_path(document), _ORIGINS) or {}


def _read(path: Path, shape: TypeAdapter[Any]) -> Any:
    """The validated content of this file, or None if it doesn't exist."""
    if not os.path.exists(path):
        return None
    try:
        return shape.validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{place}: {first['msg']}." if place else f"{first['msg']}.") from None


def _save(document: Document, plan: _Plan) -> None:
    path = _pending_path(document)
    if plan.sections:
        _write(path, plan.model_dump())
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error.strerror or str(error), "Check the permissions.") from None


def _write(path: Path, content: Any) -> None:
    # Byte for byte as the reference implementation writes it.
    replace_file(path, f"{json.dumps(content, indent=2, sort_keys=True)}\n".encode())


def _damaged(path: Path, problem: str) -> StagingError:
    hint = "Repair the file, or delete it and rerun the synth command: it stages the same pairs from the ledger, free."
    return StagingError(f"The file is damaged. {problem}", hint=hint, path=path)
