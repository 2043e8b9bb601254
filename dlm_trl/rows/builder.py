"""The `datasets` builder for `.dlm` documents, which `load_dataset("dlm_trl/dlm", kind, data_files=…)` uses.

A shard is a data file: a document, a compressed document (`.dlm.gz`, …) or a `.zip` of documents. One document is in
memory at a time. `datasets` patches `open` in this module, and only here, so that it also reads URLs and archives.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from lzma import LZMAError
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

from dlm_trl.notes import Document, parse
from dlm_trl.notes.errors import DlmError, DlmReadError, NoDocumentsError, NoRowsError, UsageError
from dlm_trl.notes.sources import expand, source_weights
from dlm_trl.rows.convert import KINDS, convert, features
from dlm_trl.rows.register import EXTENSION, NAME, revision

logger = logging.getLogger(__name__)

ROWS_PER_TABLE = 1000
Shard = tuple[str, Iterable[str]]  # a data file, and the paths to open in it
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4")
UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, LZMAError)  # what files and archives raise


class BuildError(DlmError, DatasetGenerationError):
    """Any other DlmError, in a form that `datasets` passes through unchanged, so the user sees file and line."""

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

    - kind: one of `dlm_trl.rows.convert.KINDS`; the config's name sets it, and this field does where there is only the
      name "default" (a folder).
    - adapter: only the sections that train this adapter.
    - on_error: "raise" ends at the first broken document; "skip" leaves it out with a warning that counts, given when
      the rows are made and not when they come from the cache.
    - expand_sources: also read the files that `training.sources` names; local, uncompressed documents only.
    """

    kind: str = "sft"
    adapter: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    expand_sources: bool = False
    # The cache of a folder is keyed by these fields, so the code's own hash is one of them.
    code_revision: str = revision()

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """The cache key; with expand_sources it covers the files read besides the documents."""
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
                    continue  # reading the rows comes upon it again, and on_error decides there
                files = [(section.section_id, section.path, dict(section.tags)) for section in document.sections]
                digest.update(repr((files, source_weights(document))).encode())
        return digest.hexdigest()[:16]


class Dlm(datasets.ArrowBasedBuilder):
    """Rows of `.dlm` documents; see `DlmConfig` for what can be asked for."""

    BUILDER_CONFIG_CLASS = DlmConfig
    BUILDER_CONFIGS = [DlmConfig(name=kind, kind=kind) for kind in KINDS]  # noqa: RUF012 (as `datasets` declares it)
    DEFAULT_CONFIG_NAME = "sft"

    def __init__(self, *args: Any, dataset_name: str | None = None, **kwargs: Any) -> None:
        # The name becomes part of a file name, where a slash would be a folder.
        name = NAME.replace("/", "_") if dataset_name in (None, NAME) else dataset_name
        super().__init__(*args, dataset_name=name, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        if self.config.on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is {self.config.on_error!r}.", hint='Use "raise" or "skip".')
        self.left_out = 0  # documents that on_error="skip" left out, in this process
        return datasets.DatasetInfo(features=features(self.config.kind))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        dl_manager.download_config.extract_on_the_fly = True
        splits = []
        for split, urls in (self.config.data_files or {}).items():
            origins = [str(url) for url in urls if _is_document(url) or _is_archive(url)]
            if not origins:
                raise NoDocumentsError(
                    f"None of the {len(urls)} files for split {str(split)!r} is a document."
                    if urls
                    else f"No file was found for split {str(split)!r}.",
                    hint="Documents end in .dlm (or .dlm.gz and its like), archives of them in .zip."
                    if urls
                    else "Where `[`, `*` or `?` is part of a name and no glob, put it in brackets: `[[]`.",
                )
            # What editing leaves beside a document needs no word.
            if strays := [url for url in urls if url not in origins and not url.endswith((".dlm.bak", ".dlm.lock"))]:
                logger.warning("Left out %d file(s) that are not .dlm documents: %s …", len(strays), strays[0])
            try:
                paths = dl_manager.extract(dl_manager.download(origins))
            except OSError as error:
                raise DlmReadError(
                    f"A data file cannot be read: {error}.",
                    hint="Check it, or leave it out.",
                ) from error
            files = [dl_manager.iter_files(path) for path in paths]
            shards = list(zip(origins, files, strict=True))
            arguments = {"split": str(split), "shards": shards, "all_shards": tuple(shards)}
            splits.append(datasets.SplitGenerator(name=split, gen_kwargs=arguments))
        if not splits:
            raise NoDocumentsError("No documents were named.", hint="Give data_files or data_dir.")
        return splits

    def _generate_shards(self, split: str, shards: list[Shard], all_shards: tuple[Shard, ...]) -> Iterator[str]:
        yield from (origin for origin, _ in shards)

    def _generate_tables(
        self, split: str, shards: list[Shard], all_shards: tuple[Shard, ...]
    ) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        found = False
        try:
            for index, (origin, paths) in enumerate(shards):
                batch = 0
                for path, source_file in self._listed(origin, paths):
                    for table in self._tables(path, source_file):
                        # Not a `Key`: datasets 4.7 counts rows by it and fails behind a shard that has none.
                        yield (index, batch), table
                        batch += 1
                        found = True
            # A job sees only its own shards, so the one that has the last shard asks whether any has rows.
            if not found and any(origin == all_shards[-1][0] for origin, _ in shards):
                self._check_rows_exist(split, all_shards)
        except DlmError as error:
            raise BuildError(error) from None

    def _listed(self, origin: str, paths: Iterable[str]) -> list[tuple[str, str]]:
        """What to open for each document of a shard, and what its rows call it; none for a broken archive that may be
        skipped.
        """
        try:
            return _documents(origin, paths)
        except DlmError as error:
            self._leave_out(error)
            return []

    def _tables(self, path: str, source_file: str) -> list[pa.Table]:
        """The rows of one document, whole; none for a broken one that may be skipped."""
        try:
            document = _read(path, source_file, self.config.expand_sources)
            weights = source_weights(document) if self.config.expand_sources else None
            rows = convert(document, self.config.kind, self.config.adapter, source_file, weights)
            schema = features(self.config.kind).arrow_schema
            # Few rows at a time are Python objects: many would keep the garbage collector busy.
            chunks = iter(lambda: list(islice(rows, ROWS_PER_TABLE)), [])
            return [pa.Table.from_pylist(chunk, schema) for chunk in chunks]
        except DlmError as error:
            self._leave_out(error)
            return []

    def _leave_out(self, error: DlmError) -> None:
        """Count and tell what on_error="skip" leaves out; otherwise raise."""
        if self.config.on_error == "raise":
            raise error
        self.left_out += 1
        logger.warning("Left out (document %d): %s", self.left_out, error)

    def _check_rows_exist(self, split: str, all_shards: tuple[Shard, ...]) -> None:
        """Return at the first row; if no document has any, say what they do have."""
        contents: Counter[str] = Counter()
        adapters: set[str] = set()
        documents = broken = 0
        for origin, paths in all_shards:
            try:
                found = _documents(origin, paths)
            except DlmError:
                documents += 1
                broken += 1
                continue
            for path, source_file in found:
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
        wanted = f"{self.config.kind!r}" + (f" for adapter {self.config.adapter!r}" if self.config.adapter else "")
        have = ", ".join(f"{count} {kind}" for kind, count in sorted(contents.items())) or "none"
        named = f" Their adapters: {', '.join(sorted(adapters))}." if adapters else ""
        raise NoRowsError(
            f"Split {split!r} has no rows of kind {wanted}: "
            f"{documents} document(s), {broken} of them broken, with these sections: {have}.{named}",
            hint=f"The kinds are {', '.join(KINDS)}.",
        )


def _read(path: str, source_file: str, expand_sources: bool) -> Document:
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except UNREADABLE as error:
        raise _unreadable(source_file, error) from None
    document = parse(raw, Path(source_file))
    if not expand_sources:
        return document
    if path != source_file or "://" in path:
        raise UsageError(
            f"expand_sources cannot read what lies beside {source_file}.",
            hint="It needs local, uncompressed documents.",
        )
    return expand(document)


def _documents(origin: str, paths: Iterable[str]) -> list[tuple[str, str]]:
    """What to open for each document of a shard, and what its rows call it. Raises DlmError for a broken archive."""
    if not _is_archive(origin):
        return [(str(path), origin) for path in paths]
    try:
        members = [str(path) for path in paths if _is_document(path)]
    except UNREADABLE as error:
        raise _unreadable(origin, error) from None
    return [(path, f"zip://{path.split('::')[0].removeprefix('zip://')}::{origin}") for path in members]


def _unreadable(name: str, error: Exception) -> DlmReadError:
    return DlmReadError(
        f"The file cannot be read: {error}.",
        hint="Check that it is whole and may be read.",
        path=Path(name),
    )


def _is_document(url: str) -> bool:
    name = url.split("::")[0]
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return name.endswith(EXTENSION)


def _is_archive(url: str) -> bool:
    return url.split("::")[0].endswith(".zip")
