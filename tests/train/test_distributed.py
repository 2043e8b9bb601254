"""What processes tell each other before torch connects them, and their errors: what they say, and their exit codes.

The launcher's store is real.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from dlm_trl.notes.errors import OutOfMemoryError, ProcessError
from dlm_trl.train.checkpoints import disk_errors
from dlm_trl.train.distributed import explained_errors, meet, sharding

LOST = "[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:22690."
PROGRAM = """
from dlm_trl.train.distributed import run_program

def main(argv):
    raise {error}

run_program(main)
"""


@explained_errors()
def fail(error: Exception) -> None:
    raise error


def test_memory_that_is_used_up_and_a_lost_process_are_explained() -> None:
    used_up = torch.OutOfMemoryError("CUDA out of memory.\nMore.")
    with pytest.raises(OutOfMemoryError, match=r"^Out of memory in the run: CUDA out of memory\. .*--resume"):
        fail(used_up)
    lost = RuntimeError("[gloo/pair.cc] Closed by peer. This is typical.")
    with pytest.raises(
        ProcessError, match=r"^Another process of the run has ended \(\[gloo/pair\.cc\] Closed by peer\)\."
    ):
        fail(lost)
    with pytest.raises(RuntimeError, match=r"^shapes$"):
        fail(RuntimeError("shapes"))


@pytest.mark.parametrize(
    ("error", "last"),
    [("SystemExit(143)", None), ("ZeroDivisionError('of a task')", "[rank 1] ZeroDivisionError: of a task")],
)
def test_one_of_several_processes_exits_with_its_code(error: str, last: str | None) -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    program = PROGRAM.format(error=error)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if last else 143)
    assert done.stderr.splitlines()[-1:] == ([last] if last else [])
    assert all(line.startswith("[rank 1] ") for line in done.stderr.splitlines())


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> distributed.TCPStore:
    """This process is the first of two."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=30))
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in (variables | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    return store


def test_a_process_that_cant_start_stops_the_others_at_once(
    launch: distributed.TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setenv("RANK", "1")
        meet("notes.dlm: No such file.")
    with pytest.raises(ProcessError, match=r"^Process 1 on \S+ has ended: notes.dlm: No such file.$"):
        meet()


def test_processes_that_have_read_their_files_go_on(launch: distributed.TCPStore) -> None:
    launch.set("dlm_trl/1", "")
    meet()


def test_a_launcher_that_has_gone_is_reported(launch: distributed.TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm_trl.train.distributed.MEETING", timedelta(milliseconds=300))
    monkeypatch.setenv("MASTER_PORT", "9")
    with pytest.raises(ProcessError, match="The other processes can't be reached: "):
        meet()


def test_a_lost_connection_is_one_line_and_not_taken_for_a_full_disk(tmp_path) -> None:
    for error in (RuntimeError(LOST), distributed.DistBackendError("NCCL error: remote process exited")):
        with (
            pytest.raises(ProcessError, match=r"^Another process of the run has ended .* Its own error says why"),
            explained_errors(),
            disk_errors(tmp_path, "The checkpoint"),
        ):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), explained_errors():
        raise RuntimeError("shapes do not match")


def test_what_shards_the_optimizers_state(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SimpleNamespace(deepspeed_plugin=None, world_size=4)
    sharded = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3), world_size=4)
    assert sharding(plain) is None
    assert sharding(sharded) == "DeepSpeed ZeRO-3 on 4 processes"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding(plain) == "FSDP"
