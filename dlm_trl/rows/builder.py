"""The `datasets` builder for `.dlm` documents, used by `load_dataset("dlm_trl/dlm", kind, data_files=…)`.

A shard is a data file: a document, a compressed document (`.dlm.gz`, …) or a `.zip` of documents. Only one document is
in memory at a time. `datasets` patches `open` in this module, and only here, so that it also reads URLs and archives.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

from dlm_trl.notes import Document, parse
from dlm_trl.notes.errors import DlmError, DlmReadError, NoDocumentsError, NoRowsError, UsageError
from dlm_trl.notes.parser import MAX_BYTES, too_large
from dlm_trl.notes.sources import expand, source_weights
from dlm_trl.rows.convert import KINDS, convert, features
from dlm_trl.rows.register import EXTENSION, NAME, revision

logger = logging.getLogger(__name__)

ROWS_PER_TABLE = 1000
Shard = tuple[str, Iterable[str]]  # a data file, and the paths to open in it
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4")


class BuildError(DlmError, DatasetGenerationError):
    """Wraps a DlmError so that `datasets` passes it through unchanged, and the user sees the file and line."""

    def __init__(self, error: DlmError) -> None:
        super().__init__(**vars(error))
        self.error = error

    @property
    def kind(self) -> str:
        return self.error.kind

    def __reduce__(self) -> tuple[Any, ...]:
        return BuildError, (self.error,)


@dataclass
class DlmConfig(datasets.BuilderConfig):
    """What to read from the documents.

    - kind: one of `dlm_trl.rows.convert.KINDS`. Usually set by the config's name; use this field when you load a
      folder, where the name is "default".
    - adapter: only read the sections that train this adapter.
    - on_error: "raise" stops at the first broken document; "skip" skips it with a warning (not repeated when rows come
      from the cache).
    - expand_sources: also read the files in `training.sources`; requires local, uncompressed documents.
    """

    kind: str = "sft"
    adapter: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    expand_sources: bool = False
    # These fields are the cache key of a folder, so they include the code's hash.
    code_revision: str = revision()

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """The cache key; with expand_sources, it includes the files read from there."""
        if self.expand_sources:
            config_kwargs = {**config_kwargs, "sources": self._hash_sources()}
        return str(super().create_config_id(config_kwargs, custom_features=custom_features))

    def _hash_sources(self) -> str:
        digest = hashlib.sha256()
        for origins in (self.data_files or {}).values():
            for origin in filter(_is_document, origins):
                try:
                    document = _read(origin, origin, expand_sources=True)
                except DlmError:
                    continue  # raised again when the rows are read, where on_error applies
                files = [(section.section_id, section.path, dict(section.tags)) for section in document.sections]
                digest.update(repr((files, source_weights(document))).encode())
        return digest.hexdigest()[:16]


class Dlm(datasets.ArrowBasedBuilder):
    """Rows of `.dlm` documents; see `DlmConfig` for the options."""

    BUILDER_CONFIG_CLASS = DlmConfig
    BUILDER_CONFIGS = [DlmConfig(name=kind, kind=kind) for kind in KINDS]  # noqa: RUF012 (declared like this by `datasets`)
    DEFAULT_CONFIG_NAME = "sft"

    def __init__(self, *args: Any, dataset_name: str | None = None, **kwargs: Any) -> None:
        # The name becomes part of a file name, so it can't contain a slash.
        name = NAME.replace("/", "_") if dataset_name in (None, NAME) else dataset_name
        super().__init__(*args, dataset_name=name, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        if self.config.on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is {self.config.on_error!r}.", hint='Use "raise" or "skip".')
        self.skipped = 0  # documents skipped in this process
        return datasets.DatasetInfo(features=features(self.config.kind))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        dl_manager.download_config.extract_on_the_fly = True
        splits = []
        for split, urls in (self.config.data_files or {}).items():
            origins = [str(url) for url in urls if _is_document(url) or _is_archive(url)]
            if not origins:
                raise NoDocumentsError(
                    f"None of the {len(urls)} files for split {str(split)!r} are documents."
                    if urls
                    else f"No files found for split {str(split)!r}.",
                    hint="Documents must end in .dlm (or .dlm.gz, …), and archives of documents in .zip."
                    if urls
                    else "If a file name contains `[`, `*` or `?`, put the character in brackets: `[[]`.",
                )
            # Backups and lock files next to documents are expected.
            if strays := [url for url in urls if url not in origins and not url.endswith((".dlm.bak", ".dlm.lock"))]:
                logger.warning("Skipped %d file(s) that are not .dlm documents: %s …", len(strays), strays[0])
            try:
                paths = dl_manager.download(origins)
                # Only these, because every file is opened to find out whether it is an archive.
                packed = {origin: path for origin, path in zip(origins, paths, strict=True) if _is_packed(origin)}
                extracted = dict(zip(packed, dl_manager.extract(list(packed.values())), strict=True))
                paths = [extracted.get(origin, path) for origin, path in zip(origins, paths, strict=True)]
            except OSError as error:
                raise DlmReadError(
                    f"A data file cannot be read: {error}.",
                    hint="Check the file, or remove it from data_files.",
                ) from error
            files = [dl_manager.iter_files(path) for path in paths]
            shards = list(zip(origins, files, strict=True))
            arguments = {"split": str(split), "shards": shards, "all_shards": tuple(shards)}
            splits.append(datasets.SplitGenerator(name=split, gen_kwargs=arguments))
        if not splits:
            raise NoDocumentsError("No documents to load.", hint="Pass data_files or data_dir.")
        return splits

    def _generate_shards(self, split: str, shards: list[Shard], all_shards: tuple[Shard, ...]) -> Iterator[str]:
        yield from (origin for origin, _ in shards)

    def _generate_tables(
        self, split: str, shards: list[Shard], all_shards: tuple[Shard, ...]
    ) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        has_rows = False
        documents = (document for origin, paths in shards for document in self._listed(origin, paths))
        tables = (table for document in documents for table in self._tables(*document))
        try:
            for batch, table in enumerate(_merged(tables)):
                # Not a `Key`, by which datasets 4.7 counts rows: it fails after a shard without rows.
                yield (0, batch), table
                has_rows = True
            # A process only sees its own shards, so the one with the last shard checks that any shard has rows.
            if not has_rows and any(origin == all_shards[-1][0] for origin, _ in shards):
                self._check_rows_exist(split, all_shards)
        except DlmError as error:
            raise BuildError(error) from None

    def _listed(self, origin: str, paths: Iterable[str]) -> list[tuple[str, str]]:
        """The path to open and the `source_file` of each document in a shard; empty for a skipped archive."""
        try:
            return _documents(origin, paths)
        except DlmError as error:
            self._skip(error)
            return []

    def _tables(self, path: str, source_file: str) -> list[pa.Table]:
        """All rows of one document; empty for a skipped one."""
        try:
            document = _read(path, source_file, self.config.expand_sources)
            weights = source_weights(document) if self.config.expand_sources else None
            rows = convert(document, self.config.kind, self.config.adapter, source_file, weights)
            schema = _schema(self.config.kind)
            # In chunks, because many Python objects at a time would keep the garbage collector busy.
            chunks = iter(lambda: list(islice(rows, ROWS_PER_TABLE)), [])
            return [pa.Table.from_pylist(chunk, schema) for chunk in chunks]
        except DlmError as error:
            self._skip(error)
            return []

    def _skip(self, error: DlmError) -> None:
        """Count and log a document skipped by on_error="skip"; otherwise raise."""
        if self.config.on_error == "raise":
            raise error
        self.skipped += 1
        logger.warning("Skipped (document %d): %s", self.skipped, error)

    def _check_rows_exist(self, split: str, all_shards: tuple[Shard, ...]) -> None:
        """Raise NoRowsError if no document has rows, with a summary of their sections."""
        contents: Counter[str] = Counter()
        adapters: set[str] = set()
        documents = broken = 0
        for origin, paths in all_shards:
            try:
                members = _documents(origin, paths)
            except DlmError:
                documents += 1
                broken += 1
                continue
            for path, source_file in members:
                documents += 1
                try:
                    document = _read(path, source_file, self.config.expand_sources)
                    if any(convert(document, self.config.kind, self.config.adapter)):
                        return
                except DlmError:
                    broken += 1
                    continue
                contents.update("synthesised " * s.auto_synth + s.kind for s in document.sections)
                adapters.update(document.frontmatter.training.adapters or ())
                adapters.update(s.adapter for s in document.sections if s.adapter)
        requested = f"{self.config.kind!r}" + (f" for adapter {self.config.adapter!r}" if self.config.adapter else "")
        sections = ", ".join(f"{count} {kind}" for kind, count in sorted(contents.items())) or "none"
        adapter_names = f" Their adapters: {', '.join(sorted(adapters))}." if adapters else ""
        raise NoRowsError(
            f"Split {split!r} has no rows of kind {requested}: "
            f"{documents} document(s), {broken} of them broken, with these sections: {sections}.{adapter_names}",
            hint=f"The kinds are {', '.join(KINDS)}.",
        )


def _merged(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least ROWS_PER_TABLE: in a dataset, each table takes kilobytes, however short."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= ROWS_PER_TABLE:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


@cache
def _schema(kind: str) -> pa.Schema:
    return features(kind).arrow_schema


def _read(path: str, source_file: str, expand_sources: bool) -> Document:
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)  # decompressed: a small file may hold gigabytes
    except Exception as error:  # each compression and each protocol raises errors of its own
        raise _unreadable(source_file, error) from None
    if len(raw) > MAX_BYTES:
        raise too_large(Path(source_file))
    document = parse(raw, Path(source_file))
    if not expand_sources:
        return document
    if path != source_file or "://" in path:
        raise UsageError(
            f"expand_sources can't read the sources of {source_file}.",
            hint="It requires local, uncompressed documents.",
        )
    return expand(document)


def _documents(origin: str, paths: Iterable[str]) -> list[tuple[str, str]]:
    """The path to open and the `source_file` of each document in a shard. Raises DlmError for a broken archive."""
    try:
        listed = [str(path) for path in paths]
    except Exception as error:  # as in _read
        raise _unreadable(origin, error) from None
    if not _is_archive(origin):
        return [(path, origin) for path in listed]
    members = filter(_is_document, listed)
    return [(path, f"zip://{path.split('::')[0].removeprefix('zip://')}::{origin}") for path in members]


def _unreadable(name: str, error: Exception) -> DlmReadError:
    package = {".zst": "zstandard", ".lz4": "lz4"}.get(Path(name).suffix)
    missing = package is not None and find_spec(package) is None
    return DlmReadError(
        f"The file cannot be read: {error}.",
        hint=f"Install {package}." if missing else "Check that it is complete, and its permissions.",
        path=Path(name),
    )


def _is_document(url: str) -> bool:
    name = url.split("::")[0]
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return name.endswith(EXTENSION)


def _is_packed(url: str) -> bool:
    return _is_archive(url) or url.split("::")[0].endswith(COMPRESSIONS)


def _is_archive(url: str) -> bool:
    return url.split("::")[0].endswith(".zip")
