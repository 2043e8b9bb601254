"""What a parsed file is: `Document`, its `Section`s, and the pairs and triples inside them. All immutable.

Everything remembers where it came from: `start_line` and `content_line` are 1-based lines of the file, `span` is a
range of bytes in `Document.raw`. `raw[:body_start]` and the spans of all sections, put together, are the file again,
byte for byte.
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


# Sections travel to worker processes, and read-only mappings do not pickle by themselves.
copyreg.pickle(MappingProxyType, lambda mapping: (_read_only, (dict(mapping),)))

NO_PROVENANCE: Provenance = MappingProxyType({})
NO_TEXTS: Mapping[str, str] = MappingProxyType({})


class _Fields(NamedTuple):
    # No frozen dataclass: a document can have tens of thousands of sections, and a tuple is made five times as fast.
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
    """One section of a document. `section._replace(content=…)` makes a changed copy.

    content is the text between two fences without provenance markers, lines joined by LF. span covers the section's
    fence, markers and content, and the blank prose that the reader drops behind it. provenance is flat
    (`synth_teacher`, `source_section_id`, `judge_name`, …; a harvest marker's is `source`); attributes are those of a
    media fence; tags come from `training.sources`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a section is immutable: cannot set {name}")

    @property
    def auto_synth(self) -> bool:
        """Whether a teacher wrote this section."""
        return "synth_teacher" in self.provenance

    @property
    def auto_mined(self) -> bool:
        """Whether a judge chose between two answers here."""
        return "judge_name" in self.provenance

    @property
    def auto_harvest(self) -> bool:
        """Whether this section was pulled in from a run's findings."""
        return "source" in self.provenance

    @cached_property
    def section_id(self) -> str:
        """The first 16 hex digits of a SHA-256 over kind and content (kind and path for media); computed once."""
        return section_id(self.kind, self.attributes["path"] if self.kind in ("image", "audio") else self.content)

    @property
    def bare_id(self) -> str:
        """The id that the section has without the newlines at its end: they come and go as others write behind it."""
        bare = self.content.rstrip("\n")
        return self.section_id if bare == self.content else section_id(self.kind, bare)

    @property
    def names(self) -> tuple[str, ...]:
        """The ids by which a pair may name this section as its source: as it is, and with no or one newline at its end.

        So a pair still finds its prose when something was written behind that, or was taken away there.
        """
        return self.section_id, self.bare_id, section_id(self.kind, f"{self.content.rstrip(chr(10))}\n")

    def pairs(self) -> list[Pair]:
        """The question/answer pairs of an instruction section, none for another kind.

        Raises DlmError (InstructionParseError) where the section does not keep to the `### Q` / `### A` grammar.
        """
        return read_pairs(self.content, self.content_line, self.path) if self.kind == "instruction" else []

    def triples(self) -> list[Triple]:
        """The preference triples of a preference section, none for another kind.

        Raises DlmError (PreferenceParseError) where the section does not keep to the `### Prompt` / `### Chosen` / `###
        Rejected` grammar.
        """
        return read_triples(self.content, self.content_line, self.path) if self.kind == "preference" else []


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: raw holds its original bytes, body_start the byte offset where the first section begins."""

    frontmatter: Frontmatter
    sections: tuple[Section, ...]
    path: Path | None
    raw: bytes = field(repr=False)
    body_start: int


def section_id(kind: str, text: str) -> str:
    """The id of a section of this kind; text is its content, or for media its path."""
    normal = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return hashlib.sha256(f"{kind}\n{normal}".encode()).hexdigest()[:16]
