"""Registration only adds to the tables of `datasets`, and warns if one is missing."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from datasets import packaged_modules

import dlm_trl
from dlm_trl.rows.register import register
from tests.rows.conftest import Write

TABLES = [name for name in vars(packaged_modules) if name.startswith(("_ALL", "_EXTENSION", "_MODULE", "_PACKAGED"))]


@pytest.fixture(autouse=True)
def tables_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TABLES:
        monkeypatch.setattr(packaged_modules, name, copy.deepcopy(getattr(packaged_modules, name)))


def test_registering_twice_is_harmless_and_nothing_else_changes() -> None:
    before = {name: copy.deepcopy(getattr(packaged_modules, name)) for name in TABLES}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()
    assert {name: getattr(packaged_modules, name) for name in TABLES} == before


def test_someone_elses_entry_is_kept_with_a_warning() -> None:
    packaged_modules._EXTENSION_TO_MODULE[".dlm"] = ("other", {})
    with pytest.warns(UserWarning, match="taken by") as caught:
        register()
    assert len(caught) == 1 and packaged_modules._EXTENSION_TO_MODULE[".dlm"] == ("other", {})


@pytest.mark.parametrize("table", ["_PACKAGED_DATASETS_MODULES", "_EXTENSION_TO_MODULE", "_ALL_ALLOWED_EXTENSIONS"])
def test_a_missing_table_is_one_warning(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    monkeypatch.delattr(packaged_modules, table)
    with pytest.warns(UserWarning, match=f"no table {table}.*load_dlm") as caught:
        register()
    assert len(caught) == 1


@pytest.mark.parametrize("table", ["_MODULE_TO_METADATA_EXTENSIONS", "_ALL_EXTENSIONS"])
def test_an_optional_table_may_be_missing(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    monkeypatch.delattr(packaged_modules, table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()


def test_load_dlm_needs_no_registration(write: Write) -> None:
    code = (
        "from datasets import packaged_modules as m\n"
        "m._PACKAGED_DATASETS_MODULES.clear(); m._EXTENSION_TO_MODULE.clear()\n"
        "from dlm_trl.rows.load import load_dlm\n"
        "m._PACKAGED_DATASETS_MODULES.clear(); m._EXTENSION_TO_MODULE.clear()\n"
        f"print(len(load_dlm({str(write())!r}, cache_dir={str(write().parent / 'c')!r})['train']))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "3\n"


LOADS = """
import sys
from datasets import load_dataset
from dlm_trl.rows.load import load_dlm
from dlm_trl.rows.register import register
register()
folder = sys.argv[1]
file = folder + "/a.dlm"
for rows in load_dataset("dlm_trl/dlm", data_files=file), load_dataset(folder), load_dlm(file):
    print(rows["train"].cache_files[0]["filename"])
"""


def test_other_code_does_not_reuse_cached_rows(write: Write, tmp_path: Path) -> None:
    folder, house = write("notes/a.dlm").parent, tmp_path / "house"
    shutil.copytree(Path(dlm_trl.__file__).parent, house / "dlm_trl", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(house), "HF_DATASETS_CACHE": str(tmp_path / "cache")}

    def caches_after_change(module: str) -> list[str]:
        """The cache folders of each way of loading, after a line was added to this module."""
        with (house / "dlm_trl" / module).open("a") as file:
            file.write("# changed\n")
        run = [sys.executable, "-c", LOADS, str(folder)]
        done = subprocess.run(run, cwd=house, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    before, same, other = map(caches_after_change, ("rows/split.py", "rows/tokenize.py", "notes/blocks.py"))
    assert before == same and len(before) == 3
    assert all(a != b for a, b in zip(before, other, strict=True))
