"""`load_dlm`: load documents as a dataset with the builder class, without private APIs of `datasets`.

    rows = load_dlm("notes.dlm")                                  # {"train": Dataset}
    rows = load_dlm("notes/", "prose", split="train")
    rows = load_dlm({"train": "a/*.dlm", "test": "b.zip"}, streaming=True)

The result is the same as that of `load_dataset("dlm_trl/dlm", …)`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from datasets.data_files import EmptyDatasetError, get_data_patterns

from dlm_trl.notes.errors import NoDocumentsError, UsageError
from dlm_trl.rows.builder import Dlm
from dlm_trl.rows.convert import features
from dlm_trl.rows.register import revision

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load_dlm(
    data_files: Files | Mapping[str, Files] | None = None,
    kind: str = "sft",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str | None = None,
    streaming: bool = False,
    adapter: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    expand_sources: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    storage_options: dict[str, Any] | None = None,
) -> DatasetDict | Dataset | IterableDatasetDict | IterableDataset:
    """Load the rows of `.dlm` documents: all splits, or one of them.

    data_files: a path, glob, URL or folder, a list of them, or a mapping from splits to these, relative to data_dir.
    kind, adapter, on_error, expand_sources: see `dlm_trl.rows.builder.DlmConfig`. num_proc, cache_dir,
    storage_options: as in `load_dataset`. Raises DlmError for documents that are missing, empty or broken.
    """
    features(kind)
    if streaming and num_proc is not None:
        raise UsageError("num_proc can't be combined with streaming.", hint="Leave out one of them.")
    if isinstance(data_files, str | os.PathLike) and os.path.isdir(inner := os.path.join(data_dir or "", data_files)):
        data_files, data_dir = None, inner
    folder = os.path.realpath(data_dir or "")
    base_path = glob.escape(folder)
    whole_folder = data_files is None and data_dir is not None
    try:
        builder = Dlm(
            config_name=kind,
            data_files=get_data_patterns(base_path) if whole_folder else _patterns(data_files, folder),
            base_path=base_path,
            hash=revision(),
            cache_dir=None if cache_dir is None else str(cache_dir),
            storage_options=storage_options,
            adapter=adapter,
            on_error=on_error,
            expand_sources=expand_sources,
        )
    except (FileNotFoundError, EmptyDatasetError) as error:
        raise NoDocumentsError(f"No documents found: {error}.", hint="Pass paths, globs or a folder.") from error
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


def _patterns(files: Any, folder: str) -> Any:
    """The files as strings for `datasets`, with `[`, `*` and `?` escaped in the names of existing files."""
    if isinstance(files, Mapping):
        return {split: _patterns(part, folder) for split, part in files.items()}
    if isinstance(files, str | os.PathLike):
        path = os.fspath(files)
        return glob.escape(path) if os.path.isfile(os.path.join(folder, path)) else path
    return files if files is None else [_patterns(file, folder) for file in files]
