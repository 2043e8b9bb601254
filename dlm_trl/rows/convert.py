"""Convert a parsed document into rows: pure functions, one dict per row, the same for every way of loading.

    rows = list(convert(read("notes.dlm"), "sft"))

The kinds, which are also the config names of the builder:

- `sft`: conversational `prompt` and `completion`, one row per question/answer pair, starting with the system prompt;
  `sft_human` excludes synthesised pairs, `sft_synth` has only those;
- `messages`: the same conversation in one list;
- `prose`: `text`, one row per prose section;
- `preference`: conversational `prompt`, `chosen` and `rejected`;
- `sections`: every section as it is, for inspection.

Each row also has the `PROVENANCE` columns below.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from datasets import Features, List, Value

from dlm_trl.notes import Document, Section
from dlm_trl.notes.errors import UndeclaredAdapterError, UsageError

Row = dict[str, Any]
MESSAGES = List({"role": Value("string"), "content": Value("string")})
ENTRIES = List({"key": Value("string"), "value": Value("string")})

PROVENANCE = {
    "source_file": Value("string"),  # path or URL of the document; `zip://member::archive` inside an archive
    "line": Value("int32"),  # 1-based file line where the row's text starts
    "section_id": Value("string"),
    "source_group": Value("string"),  # shared by rows about the same text; the split keeps them together
    "auto_synth": Value("bool"),
    "teacher": Value("string"),  # of a synthesised pair; null otherwise, like the next two
    "strategy": Value("string"),
    "source_section_id": Value("string"),  # the prose section the pair is about
    "adapter": Value("string"),  # from the fence; null without one
    "tags": ENTRIES,
    "weight": Value("float64"),  # number of copies of this row, from its tags; 1.0 by default
}
COLUMNS: dict[str, dict[str, Any]] = {
    "sft": {"prompt": MESSAGES, "completion": MESSAGES},
    "messages": {"messages": MESSAGES},
    "sft_human": {"prompt": MESSAGES, "completion": MESSAGES},
    "sft_synth": {"prompt": MESSAGES, "completion": MESSAGES},
    "prose": {"text": Value("string")},
    "preference": {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES},
    "sections": {
        "kind": Value("string"),
        "content": Value("string"),
        "attributes": ENTRIES,
        "auto_mined": Value("bool"),
        "auto_harvest": Value("bool"),
        "provenance": ENTRIES,
    },
}
KINDS = tuple(COLUMNS)


def features(kind: str) -> Features:
    """The columns of a kind. Raises DlmError (UsageError) unless it is one of KINDS."""
    return Features({**COLUMNS[_checked(kind)], **PROVENANCE})


def convert(
    document: Document,
    kind: str = "sft",
    adapter: str | None = None,
    source_file: str | None = None,
    weights: Mapping[Path, float] | None = None,
) -> Iterator[Row]:
    """The document's rows of one kind, in file order; each has exactly the columns of `features(kind)`.

    adapter: only sections that train this adapter: those with its suffix, all prose without a suffix, and, if it is the
    first one declared, the other sections without a suffix. None: all sections. source_file: the value of that column,
    by default the document's path. weights: of the files in `training.sources`. Raises DlmError for a malformed
    section, and for an adapter that is used but not declared.
    """
    make = _MAKERS[_checked(kind)]
    declared = tuple(document.frontmatter.training.adapters or ())
    name = _utf8(source_file or document.path or "")
    groups = _prose_groups(document)
    for section in document.sections:
        if declared and section.adapter is not None and section.adapter not in declared:
            raise UndeclaredAdapterError(
                f"The adapter {section.adapter!r} of this fence isn't declared in training.adapters.",
                hint=_choose(declared),
                path=section.path,
                line=section.start_line,
                column=1,
            )
        if adapter is not None and not _trains(section, adapter, declared):
            continue
        if section_rows := list(make(section, document.frontmatter.system_prompt)):
            file, weight = name, 1.0
            if section.path is not None and section.path != document.path:
                file, weight = _utf8(section.path), (weights or {}).get(section.path, 1.0)
            provenance = _provenance(section, file, groups, weight)
            for columns, line in section_rows:
                yield {**columns, **provenance, "line": line}


def _checked(kind: str) -> str:
    if kind not in COLUMNS:
        raise UsageError(f"Unknown kind of rows {kind!r}.", hint=_choose(KINDS))
    return kind


def _utf8(path: str | Path) -> str:
    # File names may not be UTF-8, but columns are.
    return os.fsencode(path).decode(errors="replace")


def _trains(section: Section, adapter: str, declared: tuple[str, ...]) -> bool:
    if section.adapter is not None or adapter not in declared:
        return section.adapter == adapter
    return section.kind == "prose" or adapter == declared[0]


def _provenance(section: Section, source_file: str, groups: Mapping[str, str], weight: float) -> Row:
    def text(key: str) -> str | None:
        return cast(str, section.provenance[key]) if section.auto_synth else None

    source = text("source_section_id")
    return {
        "source_file": source_file,
        "section_id": section.section_id,
        "source_group": section.bare_id if source is None else groups.get(source, source),
        "auto_synth": section.auto_synth,
        "teacher": text("synth_teacher"),
        "strategy": text("synth_strategy"),
        "source_section_id": source,
        "adapter": section.adapter,
        "tags": _entries(section.tags),
        "weight": weight,
    }


def _prose_groups(document: Document) -> dict[str, str]:
    """Map every id by which a pair may refer to a prose section to the section's group.

    The group is the id without trailing blank lines, which appear when something is appended after the section.
    """
    if not any(section.auto_synth for section in document.sections):
        return {}
    prose = [section for section in document.sections if section.kind == "prose"]
    return {name: section.bare_id for section in prose for name in section.names}


def _entries(mapping: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"key": key, "value": str(value)} for key, value in mapping.items()]


def _choose(names: tuple[str, ...]) -> str:
    return f"Choose one of {', '.join(names)}."


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _question(system_prompt: str | None, question: str) -> list[dict[str, str]]:
    system = [_message("system", system_prompt)] if system_prompt else []
    return [*system, _message("user", question)]


SectionRows = Iterator[tuple[Row, int]]  # the columns of a kind, and the file line


def _sft(section: Section, system_prompt: str | None) -> SectionRows:
    for pair in section.pairs():
        prompt = _question(system_prompt, pair.question)
        yield {"prompt": prompt, "completion": [_message("assistant", pair.answer)]}, pair.line


def _sft_human(section: Section, system_prompt: str | None) -> SectionRows:
    return iter(()) if section.auto_synth else _sft(section, system_prompt)


def _sft_synth(section: Section, system_prompt: str | None) -> SectionRows:
    return _sft(section, system_prompt) if section.auto_synth else iter(())


def _messages(section: Section, system_prompt: str | None) -> SectionRows:
    for row, line in _sft(section, system_prompt):
        yield {"messages": row["prompt"] + row["completion"]}, line


def _prose(section: Section, system_prompt: str | None) -> SectionRows:
    if section.kind == "prose" and (text := section.content.strip()):
        above = section.content[: section.content.index(text)]
        yield {"text": text}, section.content_line + above.count("\n")


def _preference(section: Section, system_prompt: str | None) -> SectionRows:
    for triple in section.triples():
        row = {
            "prompt": _question(system_prompt, triple.prompt),
            "chosen": [_message("assistant", triple.chosen)],
            "rejected": [_message("assistant", triple.rejected)],
        }
        yield row, triple.line


def _sections(section: Section, system_prompt: str | None) -> SectionRows:
    row = {
        "kind": section.kind,
        "content": section.content,
        "attributes": _entries(section.attributes),
        "auto_mined": section.auto_mined,
        "auto_harvest": section.auto_harvest,
        "provenance": _entries(section.provenance),
    }
    yield row, section.start_line


_MAKERS: dict[str, Callable[[Section, str | None], SectionRows]] = {
    "sft": _sft,
    "messages": _messages,
    "sft_human": _sft_human,
    "sft_synth": _sft_synth,
    "prose": _prose,
    "preference": _preference,
    "sections": _sections,
}
