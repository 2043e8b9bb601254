"""The data model of a parsed file: `Document`, its `Section`s, and the pairs and triples in them. All immutable.

Everything knows its position: `start_line` and `content_line` are 1-based file lines, `span` is a byte range of
`Document.raw`. `raw[:body_start]` followed by the spans of all sections is the whole file, byte for byte.
"""

from __future__ import annotations

import copyreg
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from dlm_trl.notes.blocks import Pair, Triple, read_pairs, read_triples
from dlm_trl.notes.schema import Frontmatter

Kind = Literal["prose", "instruction", "preference", "image", "audio"]
Provenance = Mapping[str, str | int | float]


def _read_only(values: dict[str, str]) -> MappingProxyType[str, str]:
    return MappingProxyType(values)


# Sections are sent to worker processes, and read-only mappings aren't picklable by default.
copyreg.pickle(MappingProxyType, lambda mapping: (_read_only, (dict(mapping),)))

NO_PROVENANCE: Provenance = MappingProxyType({})
NO_TEXTS: Mapping[str, str] = MappingProxyType({})


class _Fields(NamedTuple):
    # A tuple, because a document can have tens of thousands of sections, and a frozen dataclass is five times slower.
    kind: Kind
    content: str
    start_line: int
    content_line: int
    span: tuple[int, int]
    adapter: str | None = None
    path: Path | None = None
    provenance: Provenance = NO_PROVENANCE
    attributes: Mapping[str, str] = NO_TEXTS
    tags: Mapping[str, str] = NO_TEXTS


class Section(_Fields):
    """One section of a document. `section._replace(content=…)` returns a changed copy.

    content: the text between two fences without provenance markers, with LF line ends. span: the section's fence,
    markers and content, and any blank prose after it. provenance: the values of all its markers, flat
    (`synth_teacher`, `source_section_id`, `judge_name`, …; `source` for a harvest marker). attributes: of a media
    fence. tags: from `training.sources`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Sections are immutable: can't set {name}.")

    @property
    def auto_synth(self) -> bool:
        """Whether a teacher wrote this section."""
        return "synth_teacher" in self.provenance

    @property
    def auto_mined(self) -> bool:
        """Whether a judge ranked the two answers of this section."""
        return "judge_name" in self.provenance

    @property
    def auto_harvest(self) -> bool:
        """Whether this section was harvested from a run's findings."""
        return "source" in self.provenance

    @cached_property
    def section_id(self) -> str:
        """The first 16 hex digits of a SHA-256 over kind and content (kind and path for media); computed once."""
        return section_id(self.kind, self.attributes["path"] if self.kind in ("image", "audio") else self.content)

    @property
    def bare_id(self) -> str:
        """The id without trailing newlines, which change when something is added after the section."""
        bare = self.content.rstrip("\n")
        return self.section_id if bare == self.content else section_id(self.kind, bare)

    @property
    def names(self) -> tuple[str, ...]:
        """The ids by which a pair may refer to this section: as it is, and with no or one trailing newline.

        So a pair still finds its prose after text is added or removed after it.
        """
        return self.section_id, self.bare_id, section_id(self.kind, f"{self.content.rstrip(chr(10))}\n")

    def pairs(self) -> list[Pair]:
        """The question/answer pairs of an instruction section; empty for other kinds.

        Raises DlmError (InstructionParseError) unless `### Q` and `### A` alternate, each with a text.
        """
        return read_pairs(self.content, self.content_line, self.path) if self.kind == "instruction" else []

    def triples(self) -> list[Triple]:
        """The preference triples of a preference section; empty for other kinds.

        Raises DlmError (PreferenceParseError) unless `### Prompt`, `### Chosen` and `### Rejected` follow each other,
        each with a text.
        """
        return read_triples(self.content, self.content_line, self.path) if self.kind == "preference" else []


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. raw: its bytes. body_start: byte offset of the first section. path: None for text in memory."""

    frontmatter: Frontmatter
    sections: tuple[Section, ...]
    path: Path | None
    raw: bytes = field(repr=False)
    body_start: int


def section_id(kind: str, text: str) -> str:
    """The id of a section of this kind; text is its content, or the path for media."""
    normal = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return hashlib.sha256(f"{kind}\n{normal}".encode()).hexdigest()[:16]
