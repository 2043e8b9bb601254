"""`training.sources`: text files next to a document that are trained with it, each as a prose section.

`expand(document)` returns the document with those sections added; nothing is written. `source_weights(document)`
returns each file's weight. `filters` selects the files; this module enforces `sources_policy: strict`, which allows
nothing outside the document's folder, neither through `..` nor through a symbolic link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from dlm_trl.notes.document import Document, Section
from dlm_trl.notes.errors import SourceError
from dlm_trl.notes.filters import FOLDER_FILES, Filters, filters_of
from dlm_trl.notes.schema import Source

_SNIFFED_BYTES = 1024


class SourceFile(NamedTuple):
    """A selected file: its path, its name in the section, its text, and the filters of its folder."""

    path: Path
    name: str
    text: str
    filters: Filters


def expand(document: Document) -> Document:
    """The document with a prose section appended for each file of its `training.sources`, in sorted order.

    These sections have the file's path and tags, and an empty span at the end of the document. Raises DlmError
    (SourceError) for a path that doesn't exist, can't be read, or is outside the document's folder under the strict
    policy.
    """
    end = (len(document.raw), len(document.raw))
    added = tuple(
        Section(
            kind="prose",
            content=f"# source: {file.name}\n\n{file.text}",
            start_line=1,
            content_line=1,
            span=end,
            path=file.path,
            tags=MappingProxyType(dict(file.filters.tags)),
        )
        for file in source_files(document)
    )
    return replace(document, sections=document.sections + added)


def source_weights(document: Document) -> dict[Path, float]:
    """The weight of each file of `training.sources`: the product of the factors of its tags, default 1."""
    return {file.path: file.filters.weight() for file in source_files(document)}


def source_files(document: Document) -> Iterator[SourceFile]:
    """Every selected file, entry by entry, in sorted order. Raises DlmError as `expand` does."""
    training = document.frontmatter.training
    for source in training.sources or ():
        root, taken = source_root(document, source), 0
        base = _base(document) if training.sources_policy == "strict" else None
        for path, relative, filters in _walk(root, filters_of(source), base):
            if taken == source.max_files:
                break
            if filters.take(relative) and (text := _text(path, source, base)) is not None:
                # File names may not be UTF-8, but sections are.
                name = os.fsencode(relative.as_posix()).decode(errors="replace")
                yield SourceFile(path, name, text, filters)
                taken += 1


def source_root(document: Document, source: Source) -> Path:
    """The file or folder of this entry. Raises DlmError (SourceError) if it is missing or not allowed."""
    try:
        path = _base(document) / Path(source.path).expanduser()
    except RuntimeError:  # the home of a user that does not exist
        raise SourceError(
            "The `~` in the source path can't be expanded.", hint="Write the full path.", path=Path(source.path)
        ) from None
    if not os.path.isdir(path) and not os.path.isfile(path):
        hint = f"Relative paths are relative to {_base(document)}."
        raise SourceError("The source path isn't a file or folder.", hint=hint, path=path)
    if document.frontmatter.training.sources_policy == "strict":
        _confine(path, _base(document))
    return path


def _base(document: Document) -> Path:
    """The folder that relative paths are relative to: the document's, or its parent if that is named `.dlm`."""
    if document.path is None:
        raise SourceError(
            "The document was not read from a file, so its sources can't be located.",
            hint="Read it with notes.read(path).",
        )
    folder = Path(os.path.abspath(document.path)).parent
    return folder.parent if folder.name == ".dlm" else folder


def _walk(root: Path, filters: Filters, base: Path | None) -> Iterator[tuple[Path, PurePosixPath, Filters]]:
    """Every file below root, sorted by path components, with its path relative to root and its folder's filters.

    Symbolic links to folders aren't followed, so the walk always ends.
    """
    if root.is_dir():
        yield from _walk_folder(root, PurePosixPath(), filters, base)
    else:
        yield root, PurePosixPath(root.name), _descend(filters, PurePosixPath(), root.parent, base)


def _walk_folder(
    folder: Path, relative: PurePosixPath, filters: Filters, base: Path | None
) -> Iterator[tuple[Path, PurePosixPath, Filters]]:
    filters = _descend(filters, relative, folder, base)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(
            f"The folder cannot be read: {error.strerror}.",
            hint="Check its permissions, or move it elsewhere.",
            path=folder,
        ) from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_folder(folder / entry.name, relative / entry.name, filters, base)
        else:
            yield folder / entry.name, relative / entry.name, filters


def _descend(filters: Filters, relative: PurePosixPath, folder: Path, base: Path | None) -> Filters:
    """The filters of this folder; the strict policy applies to its two filter files, too."""
    if base is not None:
        for path in FOLDER_FILES:
            _confine(folder / path, base)
    return filters.descend(relative, folder)


def _text(path: Path, source: Source, base: Path | None) -> str | None:
    """The file's text with LF line ends, or None if it isn't a regular file, too large, binary or not UTF-8."""
    try:
        if not path.is_file():
            return None
        if base is not None:
            _confine(path, base)
        if source.max_bytes_per_file is not None and path.stat().st_size > source.max_bytes_per_file:
            return None
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"The file cannot be read: {error.strerror}.", hint="Check its permissions, or exclude it.", path=path
        ) from None
    if b"\0" in data[:_SNIFFED_BYTES]:
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _confine(path: Path, base: Path) -> None:
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base)):
        raise SourceError(
            f"The source is outside {base}, which `sources_policy: strict` doesn't allow.",
            hint="Move or exclude it, or set training.sources_policy: permissive.",
            path=path,
        )
