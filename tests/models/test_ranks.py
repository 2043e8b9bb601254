"""Work for several processes: real ones, launched as users do it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlm_trl.models.ranks import is_main, map_over_ranks
from dlm_trl.notes.errors import DlmError, UsageError

CONFIG = Path(__file__).parents[2] / "accelerate_configs" / "cpu_2proc.yaml"

# What each process writes down: its rank, what it worked on, and what it got.
PROGRAM = """
import json, os, sys
from pathlib import Path
from dlm_trl.models.ranks import is_main, map_over_ranks
from dlm_trl.notes.errors import DlmError, UsageError

worked = []
def work(items):
    worked.append(items)
    return [f"{item} by {os.environ['RANK']}" for item in items]

def refuse(items):
    if 3 in items:
        raise UsageError("3 is refused.", hint="Take 4.")
    return items

if sys.argv[2] == "state first":
    from accelerate import PartialState
    PartialState()  # as a model that is loaded before makes it
found = {"seven": map_over_ranks(range(7), work), "one": map_over_ranks(["x"], work), "none": map_over_ranks([], work)}
try:
    map_over_ranks([1, 2, 3, 4], refuse)
except DlmError as error:
    found["error"] = str(error)
found |= {"again": map_over_ranks([8, 9], work), "worked": worked, "main": is_main()}
Path(sys.argv[1], os.environ["RANK"]).write_text(json.dumps(found))


def end(items):
    if is_main():
        os._exit(3)
    return items

if sys.argv[2] == "state first":
    try:
        map_over_ranks([1, 2], end)
    except DlmError as error:
        Path(sys.argv[1], "lost").write_text(str(error))
"""


def launch(folder: Path, mode: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIG, program, folder, mode]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("mode", ["nothing first", "state first"])
def test_two_processes_share_the_work_and_neither_waits_for_a_dead_one(tmp_path: Path, mode: str) -> None:
    done = launch(tmp_path, mode)
    assert (done.returncode == 0) == (mode == "nothing first"), done.stderr[-3000:]
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert first["seven"] == second["seven"] == [f"{i} by {i % 2}" for i in range(7)]
    assert first["one"] == second["one"] == ["x by 0"]
    assert first["none"] == second["none"] == []
    assert first["again"] == second["again"] == ["8 by 0", "9 by 1"]
    assert (first["worked"][0], second["worked"][0]) == ([0, 2, 4, 6], [1, 3, 5])
    assert first["error"] == second["error"] == "3 is refused. Take 4."
    assert (first["main"], second["main"]) == (True, False)
    if mode == "state first":  # the second doesn't wait for the first
        assert (tmp_path / "lost").read_text().startswith("Another process of the run has ended (")


def test_one_process_does_the_work_itself_and_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert is_main()
    assert map_over_ranks([1, 2, 3], lambda items: [-i for i in items]) == [-1, -2, -3]
    with pytest.raises(DlmError, match="no"):
        map_over_ranks([1], lambda items: (_ for _ in ()).throw(UsageError("no")))
    program = (
        "import sys; from dlm_trl.models.ranks import map_over_ranks\n"
        "map_over_ranks([1], list); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
