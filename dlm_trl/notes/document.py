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
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from dlm_trl.notes.blocks import Pair, Triple, read_pairs, read_triples
from dlm_trl.notes.schema import Frontmatter

Kind = Literal["prose", "instruction", "preference", "image", "audio"]
Attributes = Mapping[str, str | int | float]

# Sections travel to worker processes, and read-only mappings do not pickle by themselves.
copyreg.pickle(MappingProxyType, lambda mapping: (MappingProxyType, (dict(mapping),)))

NO_PROVENANCE: Attributes = MappingProxyType({})
NO_TEXTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a document.

    content is the text between two fences without provenance markers, lines joined by LF. span covers the section's
    fence, markers and content, and the blank prose that the reader drops behind it. provenance is flat
    (`synth_teacher`, `source_section_id`, `judge_name`, …; a harvest marker's is `source`); attributes are those of a
    media fence; tags come from `training.sources`.
    """

    kind: Kind
    content: str
    start_line: int
    content_line: int
    span: tuple[int, int]
    adapter: str | None = None
    path: Path | None = None
    auto_synth: bool = False
    auto_mined: bool = False
    auto_harvest: bool = False
    provenance: Attributes = field(default_factory=lambda: NO_PROVENANCE, hash=False)
    attributes: Mapping[str, str] = field(default_factory=lambda: NO_TEXTS, hash=False)
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TEXTS, hash=False)
    _id: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def section_id(self) -> str:
        """The first 16 hex digits of a SHA-256 over kind and content (kind and path for media); computed once."""
        if self._id is None:
            text = self.attributes["path"] if self.kind in ("image", "audio") else self.content
            object.__setattr__(self, "_id", section_id(self.kind, text))
        assert self._id is not None
        return self._id

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
