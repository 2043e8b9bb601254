"""Staged preferences: a question with a chosen and a rejected answer, reviewed before they are in the document.

    stage_preferences(document, chosen, mined_at=now())
    for item in staged_preferences(document): print(item.section_id[:8], item.prompt, item.chosen, item.rejected)
    apply_preferences("notes.dlm"); revert_preferences("notes.dlm")

They are kept in `preferences.json` beside the staged pairs. The judge and its scores are in the section's own marker;
the teacher and its replies are only in this file, and stay there after a preference leaves staging.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dlm_trl.notes import Document, Section, edit, read
from dlm_trl.notes.document import section_id
from dlm_trl.notes.errors import DlmError, StagingError, UsageError
from dlm_trl.notes.files import locked, replace_file
from dlm_trl.notes.parser import parse, read_bytes
from dlm_trl.notes.store import synth_dir
from dlm_trl.synth.guard import TRIAL, Refusal, make_safe
from dlm_trl.synth.ledger import check_owner, make_folder, source_path
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.removal import choose, remove
from dlm_trl.synth.staging import resolve_ids


@dataclass(frozen=True, slots=True)
class Preference:
    """A question, the better and the worse answer, and where they come from.

    chosen_score, rejected_score: the judge's margins, in nats per token. adapter: the one that the question's section
    trains, or None. teacher, source_section_id, request_keys: who wrote the answers, the prose that they were judged
    by, and both replies in the ledger; "" and () if another program put the preference into the document.
    """

    prompt: str
    chosen: str
    rejected: str
    judge: str
    chosen_score: float
    rejected_score: float
    mined_at: str
    run_id: int
    adapter: str | None = None
    teacher: str = ""
    source_section_id: str = ""
    request_keys: tuple[str, ...] = ()

    @property
    def section_id(self) -> str:
        """The id of its own section."""
        return section_id("preference", self.content)

    @property
    def content(self) -> str:
        return f"### Prompt\n{self.prompt}\n### Chosen\n{self.chosen}\n### Rejected\n{self.rejected}"


@dataclass(slots=True)
class _File:
    """preferences.json. origins: the teachers of preferences that were staged here, by section id."""

    source_path: str
    staged: list[Preference] = field(default_factory=list)
    origins: dict[str, tuple[str, str]] = field(default_factory=dict)


_FILE = TypeAdapter(_File)


def safe_preference(prompt: str, chosen: str, rejected: str) -> tuple[str, str, str] | Refusal:
    """The texts as they can be written into a document, or why they can't."""
    first, second = make_safe(QAPair(prompt, chosen)), make_safe(QAPair(prompt, rejected))
    if isinstance(first, Refusal):
        return first
    if isinstance(second, Refusal):
        return second
    safe = (first.question, first.answer, second.answer)
    made = Preference(*safe, "j", 1.0, 0.0, "2000-01-01T00:00:00Z", 1)
    try:
        found = [
            triple[:3] for section in parse(TRIAL + preference_section(made)).sections for triple in section.triples()
        ]
    except DlmError:
        found = []
    return safe if found == [safe] else Refusal("The document parser doesn't read the texts back as written.")


def preference_section(item: Preference) -> str:
    """The text of a section with this preference, for `notes.edit.append`; ends with a newline.

    Raises DlmError (UsageError) for a judge's name that a marker can't contain.
    """
    if any(character in item.judge for character in '"\n\r'):
        raise UsageError(
            f"The judge's name {item.judge!r} can't be written into a document.",
            hint="Use a name without double quotes or line breaks.",
        )
    marker = (
        f'judge_name="{item.judge}" judge_score_chosen="{item.chosen_score:.4f}" '
        f'judge_score_rejected="{item.rejected_score:.4f}" mined_at="{item.mined_at}" mined_run_id="{item.run_id}"'
    )
    fence = f"::preference#{item.adapter}::" if item.adapter else "::preference::"
    return f"{fence}\n<!-- dlm-auto-mined: {marker} -->\n{item.content}\n"


def stage_preferences(document: Document, items: Sequence[Preference]) -> list[Preference]:
    """Stage these, and return those that were neither staged nor in the document before.

    Raises DlmError as `staged_preferences` does, and DlmWriteError.
    """
    with _locked(document):
        file = _load(document)
        known = {section.bare_id for section in document.sections} | {item.section_id for item in file.staged}
        new = [item for item in {item.section_id: item for item in items}.values() if item.section_id not in known]
        file.staged += new
        file.origins |= {item.section_id: (item.teacher, item.source_section_id) for item in new}
        _save(document, file)
        return new


def staged_preferences(document: Document) -> list[Preference]:
    """The preferences staged for this document, oldest first.

    Raises DlmError: LedgerError if they were staged for another file with the same dlm_id, StagingError if the file is
    damaged.
    """
    return _load(document).staged


def applied_preferences(document: Document) -> list[Preference]:
    """The preferences in the document that a judge ranked, in file order.

    Raises DlmError: PreferenceParseError for a malformed section, StagingError.
    """
    origins = _load(document).origins
    return [
        Preference(
            *triple[:3],
            judge=str(section.provenance["judge_name"]),
            chosen_score=float(section.provenance["judge_score_chosen"]),
            rejected_score=float(section.provenance["judge_score_rejected"]),
            mined_at=str(section.provenance["mined_at"]),
            run_id=int(section.provenance["mined_run_id"]),
            adapter=section.adapter,
            teacher=origins.get(section.bare_id, ("", ""))[0],
            source_section_id=origins.get(section.bare_id, ("", ""))[1],
        )
        for section in document.sections
        if section.auto_mined
        for triple in section.triples()
    ]


def next_run_id(document: Document) -> int:
    """The number of the next run: one more than the highest in the document and in staging."""
    ids = [item.run_id for item in [*applied_preferences(document), *staged_preferences(document)]]
    return max(ids, default=0) + 1


def drop_preferences(document: Document, section_ids: Sequence[str]) -> int:
    """Unstage those with these ids, and return their number. Raises as `stage_preferences` does."""
    with _locked(document):
        file = _load(document)
        kept = [item for item in file.staged if item.section_id not in section_ids]
        dropped = len(file.staged) - len(kept)
        if dropped:
            file.staged = kept
            _save(document, file)
        return dropped


def apply_preferences(path: str | os.PathLike[str], ids: Sequence[str] | None = None) -> int:
    """Append the staged preferences with these ids (None: all) to the document, unstage them, and return how many there
    are now that weren't there before. A second call finishes what a killed one started.

    Raises DlmError as `staged_preferences`, `resolve_ids` and `edit.append` do. The document is then unchanged.
    """
    document = read(path)
    items = staged_preferences(document)
    if ids is not None:
        wanted = set(resolve_ids(ids, [item.section_id for item in items]))
        items = [item for item in items if item.section_id in wanted]
    present = {section.bare_id for section in document.sections}
    new = [item for item in items if item.section_id not in present]
    edited = edit.append(document, *map(preference_section, new))
    drop_preferences(edited, [item.section_id for item in items])
    return len(new)


def revert_preferences(
    path: str | os.PathLike[str], ids: Sequence[str] | None = None, teacher: str | None = None
) -> list[Section]:
    """Remove judged preferences from the document: all, or only those with these ids or this teacher.

    Returns the removed sections. Raises DlmError: as `resolve_ids` and `edit.remove` do, and StagingError if a section
    to be removed also contains text that someone added after it. The document is then unchanged.
    """
    document = read(path)
    origins = _load(document).origins
    every = [section for section in document.sections if section.auto_mined]
    sections = choose(every, ids, teacher, lambda section: origins.get(section.bare_id, ("", ""))[0])
    remove(document, sections, _line_after(sections, origins), "a rejected answer")
    return sections


def _line_after(sections: Sequence[Section], origins: dict[str, tuple[str, str]]) -> int | None:
    """The file line of the first text that someone added after a preference that was staged here, or None."""
    for section in sections:
        lines = [] if section.bare_id in origins else section.content.split("\n")
        for i in range(len(lines)):
            if section_id("preference", "\n".join(lines[:i])) in origins:
                if added := [k for k in range(i, len(lines)) if lines[k].strip()]:
                    return section.content_line + added[0]
                break
    return None


def _path(document: Document) -> Path:
    return synth_dir(document.frontmatter.dlm_id) / "preferences.json"


@contextmanager
def _locked(document: Document) -> Iterator[None]:
    path = _path(document)
    make_folder(path.parent)
    with locked(path):
        yield


def _load(document: Document) -> _File:
    """The file; its source_path becomes this document's."""
    source, path = source_path(document), _path(document)
    if not os.path.exists(path):
        return _File(source)
    try:
        file = _FILE.validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StagingError(
            f"The file is damaged. {place}: {first['msg']}.",
            hint="Repair the file, or delete it and rerun `synth preference`: the ledger has the replies, free.",
            path=path,
        ) from None
    check_owner(document, file.source_path, path)
    file.source_path = source
    return file


def _save(document: Document, file: _File) -> None:
    replace_file(_path(document), _FILE.dump_json(file, indent=2) + b"\n")
