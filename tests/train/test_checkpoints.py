"""Which checkpoint a run resumes from, and when an older one goes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros
from trl import SFTConfig

from dlm_trl.notes import DlmError
from dlm_trl.train.checkpoints import (
    SEAL,
    check_output_dir,
    checkpoints,
    damage,
    disk_errors,
    find_checkpoint,
    remove_checkpoints,
    rotate,
    seal,
)
from tests.support import full_disk, small_files

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
SPOIL: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "empty": lambda file: file.write_bytes(b""),
    "flipped": lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 8]) + file.read_bytes()[1:]),
}


def settings(out: Path, resume: str | None = "true") -> SFTConfig:
    return SFTConfig(output_dir=str(out), resume_from_checkpoint=resume, use_cpu=True)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[int], Path]:
    """Writes and seals the checkpoint of this step in tmp_path."""

    def one(step: int) -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in FILES:
            (folder / name).write_bytes(f"{name} of step {step}".encode())
        seal(folder, {"lora_r": 4})
        return folder

    return one


@pytest.mark.parametrize("file", [*FILES, SEAL])
@pytest.mark.parametrize("kind", SPOIL)
def test_the_checkpoint_before_a_damaged_one_is_taken(
    write: Callable[[int], Path], tmp_path: Path, file: str, kind: str
) -> None:
    before, newest = write(5), write(10)
    SPOIL[kind](newest / file)
    found, (skipped, chosen) = find_checkpoint(settings(tmp_path), overwrite=False)
    assert found == str(before)
    reason = "it was not written to its end" if (file, kind) == (SEAL, "missing") else file
    assert skipped.startswith(f"{newest} is skipped: {reason}")
    assert chosen == f"The run resumes from {before}."


def test_every_flipped_byte_of_a_seal_is_found(write: Callable[[int], Path]) -> None:
    checkpoint = write(5)
    whole = (checkpoint / SEAL).read_bytes()
    for place in range(len(whole)):
        (checkpoint / SEAL).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert damage(checkpoint) is not None, f"byte {place}"
    (checkpoint / SEAL).write_bytes(whole)
    assert damage(checkpoint) is None


def test_one_command_starts_and_resumes(write: Callable[[int], Path], tmp_path: Path) -> None:
    def find() -> tuple[str | None, list[str]]:
        return find_checkpoint(settings(tmp_path), overwrite=True)

    fresh = f"{tmp_path} has no whole checkpoint: the run starts from the beginning."
    assert find() == (None, [fresh])
    (write(3) / SEAL).unlink()
    assert find() == (None, [f"{tmp_path / 'checkpoint-3'} is skipped: it was not written to its end.", fresh])
    whole = write(6)
    assert find()[0] == str(whole)
    with pytest.raises(DlmError, match="holds checkpoints of an earlier run"):
        find_checkpoint(settings(tmp_path, None), overwrite=False)
    remove_checkpoints(str(tmp_path))
    assert checkpoints(str(tmp_path)) == []


def test_the_oldest_go_first_and_unsealed_ones_before_them(write: Callable[[int], Path], tmp_path: Path) -> None:
    for age, step in ((4, 9), (3, 2), (2, 4), (1, 6)):  # an earlier run left step 9
        seconds = 1_700_000_000 - age
        os.utime(write(step) / SEAL, (seconds, seconds))
    (tmp_path / "checkpoint-12").mkdir()

    def left(keep: int | None, best: str | None = None) -> set[int]:
        rotate(tmp_path / "checkpoint-6", keep, best)
        return {int(folder.name.split("-")[1]) for folder in checkpoints(str(tmp_path))}

    assert left(None) == {2, 4, 6, 9, 12}
    assert left(4) == {2, 4, 6, 9}
    assert left(2, best=str(tmp_path / "checkpoint-2")) == {2, 6}
    assert left(1) == {6}


def test_a_run_that_is_resumed_counts_its_checkpoints_as_its_own(write: Callable[[int], Path], tmp_path: Path) -> None:
    write(3)
    with full_disk(tmp_path / "disk", size=4 * 2**20) as disk:
        (disk / "checkpoint-3").mkdir()
        (disk / "checkpoint-3" / "optimizer.pt").write_bytes(bytes(3 * 2**20))
        assert check_output_dir(settings(disk), 3 * 2**20) == []
        (problem,) = check_output_dir(settings(disk), 5 * 2**20)
    assert "are free and the run may need 5" in problem


def test_a_library_that_finds_the_disk_full_is_reported_in_one_line(tmp_path: Path) -> None:
    import torch

    for write in (
        lambda: torch.save({"moments": zeros(100_000)}, tmp_path / "optimizer.pt"),
        lambda: save_file({"weights": zeros(100_000)}, tmp_path / "adapter_model.safetensors"),
        lambda: (tmp_path / "trainer_state.json").write_text(json.dumps([0] * 100_000)),
    ):
        one_line = pytest.raises(DlmError, match=r"The checkpoint can't be written: .*MiB are free\)\. Free some")
        with one_line as caught, small_files(), disk_errors(tmp_path, "The checkpoint"):
            write()
        assert str(caught.value).startswith(f"{tmp_path}: ") and "\n" not in str(caught.value)
