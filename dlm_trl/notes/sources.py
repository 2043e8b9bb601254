"""`training.sources`: text files beside a document that are trained with it, each as a prose section.

`expand(document)` gives the document with those sections added; nothing is written. `source_weights(document)` says
how often each file counts. Which files are taken is for `filters`; that they may be is judged here: under
`sources_policy: strict` nothing outside the document's folder is read, neither by `..` nor through a link.
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
    """A file that a `training.sources` entry takes: its path, the name its section gives it, its text, and its
    folder's filters.
    """

    path: Path
    name: str
    text: str
    filters: Filters


def expand(document: Document) -> Document:
    """The document with a prose section for each file of its `training.sources`, after its own, in the order of the
    walk.

    Such a section has the file's path and tags, and an empty span at the end of the document. Raises DlmError
    (SourceError) for a path that does not exist, cannot be read, or leaves the document's folder under the strict
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
    """For each file of `training.sources` how often it counts: the product of what its tags weigh, 1 where nothing is
    said.
    """
    return {file.path: file.filters.weight() for file in source_files(document)}


def source_files(document: Document) -> Iterator[SourceFile]:
    """Every file that is taken, entry by entry, in sorted order. Raises DlmError as expand does."""
    training = document.frontmatter.training
    for source in training.sources or ():
        root, taken = source_root(document, source), 0
        base = _base(document) if training.sources_policy == "strict" else None
        for path, relative, filters in _walk(root, filters_of(source), base):
            if taken == source.max_files:
                break
            if filters.take(relative) and (text := _text(path, source, base)) is not None:
                # A file name need not be UTF-8, but a section is.
                name = os.fsencode(relative.as_posix()).decode(errors="replace")
                yield SourceFile(path, name, text, filters)
                taken += 1


def source_root(document: Document, source: Source) -> Path:
    """The file or folder that this entry names. Raises DlmError (SourceError) if it is missing or not allowed."""
    try:
        path = _base(document) / Path(source.path).expanduser()
    except RuntimeError:  # the home of a user that does not exist
        raise SourceError(
            "The source path cannot be expanded.", hint="Write it without `~`.", path=Path(source.path)
        ) from None
    if not os.path.isdir(path) and not os.path.isfile(path):
        hint = f"Relative paths start at {_base(document)}."
        raise SourceError("The source path is neither a folder nor a file.", hint=hint, path=path)
    if document.frontmatter.training.sources_policy == "strict":
        _confine(path, _base(document))
    return path


def _base(document: Document) -> Path:
    """Where relative paths start: the document's folder, or the one above where that is a `.dlm` folder."""
    if document.path is None:
        raise SourceError(
            "The document was not read from a file, so its sources have no place to start from.",
            hint="Read it with notes.read(path).",
        )
    folder = Path(os.path.abspath(document.path)).parent
    return folder.parent if folder.name == ".dlm" else folder


def _walk(root: Path, filters: Filters, base: Path | None) -> Iterator[tuple[Path, PurePosixPath, Filters]]:
    """All below a folder that is no folder itself, sorted by its path's parts, each with its path relative to root and
    its folder's filters.

    Links to folders are not followed, so a walk ends.
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
            f"The folder cannot be read: {error.strerror}.", hint="Allow it, or move it away.", path=folder
        ) from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_folder(folder / entry.name, relative / entry.name, filters, base)
        else:
            yield folder / entry.name, relative / entry.name, filters


def _descend(filters: Filters, relative: PurePosixPath, folder: Path, base: Path | None) -> Filters:
    """The rules in force in this folder; its own two files are confined like those that are trained."""
    if base is not None:
        for path in FOLDER_FILES:
            _confine(folder / path, base)
    return filters.descend(relative, folder)


def _text(path: Path, source: Source, base: Path | None) -> str | None:
    """The file's text as the reader of documents would take it, None for what is no file, too large, binary or not
    UTF-8.
    """
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
            f"The file cannot be read: {error.strerror}.", hint="Exclude it, or allow it.", path=path
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
            f"The source leads outside {base}, which `sources_policy: strict` forbids.",
            hint="Move or exclude it, or set training.sources_policy: permissive.",
            path=path,
        )
