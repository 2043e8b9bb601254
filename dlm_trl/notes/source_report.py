"""What the files of `training.sources` contribute: characters by folder and kind of file, and a warning if most of them
aren't notes. A folder of notes often contains an editor's plugins, deleted notes and drawings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from dlm_trl.notes.document import Document
from dlm_trl.notes.sources import source_files

NOTES = frozenset({
    ".md", ".markdown", ".mdx", ".mdown", ".qmd", ".rmd", ".txt", ".text", ".rst", ".org", ".adoc", ".asciidoc", ".tex",
    ".typ", ".textile", ".wiki", ".dlm",
})  # fmt: skip
_SHOWN = 10


class Part(NamedTuple):
    """The files of one kind in one folder at the top of a source.

    folder: "" for the top itself. suffix: "" for files without one. Files in hidden folders aren't notes, whatever
    their suffix; files without a suffix, such as README, are.
    """

    folder: str
    suffix: str
    files: int
    characters: int

    @property
    def is_hidden(self) -> bool:
        return self.folder.startswith(".")

    @property
    def is_notes(self) -> bool:
        return not self.is_hidden and (not self.suffix or self.suffix.lower() in NOTES)

    @property
    def glob(self) -> str:
        """Excludes these files, and others like them."""
        return f"{self.folder}/**" if self.is_hidden else f"**/*{self.suffix}"

    def __str__(self) -> str:
        return f"{self.folder}/**/*{self.suffix}" if self.folder else f"*{self.suffix}"


def source_parts(document: Document) -> list[Part]:
    """What becomes rows, largest part first. Raises DlmError (SourceError) as `sources.expand` does."""
    counts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for file in source_files(document):
        name = PurePosixPath(file.name)
        hidden = next((str(parent) for parent in reversed(name.parents) if parent.name.startswith(".")), None)
        folder = hidden or (name.parts[0] if len(name.parts) > 1 else "")
        count = counts[folder, name.suffix]
        count[0] += 1
        count[1] += len(file.text)
    parts = [Part(*key, files, characters) for key, (files, characters) in counts.items()]
    return sorted(parts, key=lambda part: (-part.characters, part))


def parts_table(parts: Sequence[Part]) -> str:
    """A line for each of the largest parts, with its characters."""
    total = sum(part.characters for part in parts)
    lines = [f"{part.characters:>12,}  {part.files:>6,} files  {part}" for part in parts[:_SHOWN]]
    if rest := parts[_SHOWN:]:
        lines.append(f"{sum(p.characters for p in rest):>12,}  {sum(p.files for p in rest):>6,} files  others")
    return "\n".join([f"training.sources: {total:,} characters become rows", *lines])


def not_notes(parts: Sequence[Part]) -> tuple[str, str] | None:
    """What is wrong and what to do if most characters aren't notes, or some are in hidden folders; else None."""
    others = [part for part in parts if not part.is_notes]
    total, other = (sum(part.characters for part in some) for some in (parts, others))
    if 2 * other <= total and not any(part.is_hidden for part in others):
        return None
    largest = ", ".join(f"{part} ({part.characters:,})" for part in others[:3])
    globs = ", ".join(f"'{glob}'" for glob in dict.fromkeys(part.glob for part in others))
    message = f"Of {total:,} characters that become rows, {total - other:,} are notes; others: {largest}."
    return message, f"Exclude what isn't meant: exclude: [{globs}]; or include: ['**/*.md']."
