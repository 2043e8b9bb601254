"""An output folder appears whole or not at all, and never replaces a user's files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dlm_trl.export.output_folder import new_folder
from dlm_trl.notes import DlmError


def fill(folder: Path, text: str) -> None:
    (folder / "lineage.json").write_text(text)
    (folder / "sub").mkdir()
    (folder / "sub" / "weights").write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def whole(text: str) -> dict[str, str]:
    return {"lineage.json": text, str(Path("sub") / "weights"): text}


def test_weights_get_the_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with new_folder(tmp_path / "out") as temporary:
        save_file({"weight": torch.zeros(2)}, temporary / "model.safetensors")
        fill(temporary, "one")
        (temporary / "sub" / "weights").chmod(0o600)  # like safetensors' files
    modes = {file.stat().st_mode for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert modes == {(tmp_path / "other").stat().st_mode}


def test_a_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    for text in ("one", "two"):
        with new_folder(out) as temporary:
            fill(temporary, text)
            assert not out.exists() or read(out) == whole("one")
        assert read(out) == whole(text)
        assert list(out.parent.iterdir()) == [out]
    (out / "lineage.json").unlink()  # an empty folder can be replaced too
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as temporary:
        fill(temporary, "three")
    assert read(tmp_path / "empty") == whole("three")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_block_that_raises_changes_nothing(error: type[BaseException], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out) as temporary:
        fill(temporary, "old")
    expected = DlmError if error is OSError else error  # users can fix disk errors
    with pytest.raises(expected), new_folder(out) as temporary:
        fill(temporary, "new")
        raise error
    assert read(out) == whole("old")
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_the_next_call_repairs_a_kill_at_any_moment(moment: str, tmp_path: Path) -> None:
    out, old, partial = tmp_path / "out", tmp_path / ".out.old", tmp_path / ".out.partial"
    for folder in {"before": (out, partial), "between": (old, partial), "after": (out, old)}[moment]:
        folder.mkdir()
        fill(folder, folder.name)
    with pytest.raises(ZeroDivisionError), new_folder(out) as temporary:
        assert list(temporary.iterdir()) == []
        raise ZeroDivisionError
    assert read(out) == whole(".out.old" if moment == "between" else "out")
    assert list(tmp_path.iterdir()) == [out]


def refused(out: Path, match: str, inputs: tuple[Path, ...] = (), needed: int = 0) -> None:
    with pytest.raises(DlmError, match=match) as caught, new_folder(out, inputs, needed):
        raise AssertionError("the block must not start")
    assert caught.value.kind == "OutputError"


def test_other_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("…")
    refused(tmp_path / "thesis", "isn't an earlier result")
    refused(tmp_path / "thesis" / "chapter1.tex", "it is a file")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "…"


def test_a_trained_adapter_is_not_replaced(tmp_path: Path) -> None:
    fill(tmp_path, "trained")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "it holds an adapter")
    assert read(tmp_path) == whole("trained") | {"adapter_config.json": "{}"}


def test_an_input_is_never_the_output(tmp_path: Path) -> None:
    source = tmp_path / "runs" / "adapter"
    source.mkdir(parents=True)
    fill(source, "adapter")
    (tmp_path / "link").symlink_to(source)
    for out in (source, source.parent, source / "merged", tmp_path / "link", tmp_path / "link" / "merged"):
        refused(out, "overlaps with the input", (tmp_path, source) if out == tmp_path else (source,))
    assert read(source) == whole("adapter")
    with new_folder(source.parent / "adapter-merged", (source,)) as temporary:  # next to it is fine
        fill(temporary, "merged")


def test_an_unwritable_place_is_rejected(tmp_path: Path) -> None:
    refused(tmp_path / "out", "GB are free", needed=10**18)
    refused(Path("/proc/dlm/out"), "Can't write the result here")  # not even root can write there
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "out", "file is a file")
    refused(tmp_path / ("x" * 300), "name too long")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "loop")


WRITER = """
import sys, time
from pathlib import Path
from dlm_trl.export.output_folder import new_folder
with new_folder(Path(sys.argv[1])) as temporary:
    print("in", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", WRITER, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        refused(out, "another program is writing it")
        process.communicate()
    assert list(tmp_path.iterdir()) == [out]
