"""What processes tell each other before torch connects them, and when one ends. The launcher's store is real."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from torch import distributed

from dlm_trl.models.ranks import process_errors
from dlm_trl.notes.errors import ProcessError
from dlm_trl.train.checkpoints import disk_errors
from dlm_trl.train.distributed import TO_RESUME, meet, sharding

LOST = "[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:22690."


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
            pytest.raises(ProcessError, match=r"^Another process has ended: .* Its own message says why"),
            process_errors(TO_RESUME),
            disk_errors(tmp_path, "The checkpoint"),
        ):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), process_errors(TO_RESUME):
        raise RuntimeError("shapes do not match")


def test_what_shards_the_optimizers_state(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SimpleNamespace(deepspeed_plugin=None, world_size=4)
    sharded = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3), world_size=4)
    assert sharding(plain) is None
    assert sharding(sharded) == "DeepSpeed ZeRO-3 on 4 processes"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding(plain) == "FSDP"
