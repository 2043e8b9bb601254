"""The doctor on this machine and on machines that lack something: what it says is true, and each fault has a remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from packaging.requirements import Requirement

from dlm_trl.doctor import machine, packages
from dlm_trl.doctor.launch_files import Here, launch_files, obstacle
from dlm_trl.notes.shipped import shipped

ROOT = Path(__file__).parents[2]
FILES = {file.path.name: file for file in launch_files()}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dlm_trl", "doctor", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
        cwd=ROOT,
    )


def test_what_it_prints_is_json_and_its_exit_code_says_whether_training_works(tmp_path: Path) -> None:
    done = run("--json", DLM_HOME=str(tmp_path))
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["works"], done.stderr
    found = {one["about"]: one for one in report["findings"]}
    assert found["Python"]["state"] == "ok"
    assert str(tmp_path) in found["store"]["found"]
    assert "HF_HUB_OFFLINE" in found["Hub"]["found"]
    assert all(one["remedy"] for one in report["findings"] if one["state"] != "ok")
    assert report["launch_files"]["single.yaml"] is None


@pytest.mark.heavy
def test_a_store_that_cannot_be_written_to_is_a_problem(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    done = run("--json", DLM_HOME=str(in_the_way / "dlm"))
    report = json.loads(done.stdout)
    (store,) = [one for one in report["findings"] if one["about"] == "store"]
    assert (done.returncode, report["works"], store["state"]) == (1, False, "problem")
    assert "can't be written to" in store["found"] and "Set DLM_HOME" in store["remedy"]
    assert "Traceback" not in done.stderr


@pytest.mark.heavy
def test_the_tables_name_each_finding_and_launch_file(tmp_path: Path) -> None:
    done = run(DLM_HOME=str(tmp_path))
    assert done.returncode == 0 and "Training on a document works here." in done.stdout
    assert all(word in done.stdout for word in ("Python", "extra bnb", "single.yaml"))


def test_packages_are_compared_with_the_known_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    needed, extras = packages.requirements()
    assert {"torch", "trl", "peft"} <= {item.name for item in needed}
    assert {item.name for item in extras["bnb"]} == {"bitsandbytes"}
    known = packages.known_versions()
    assert known["trl"] == "1.16.0" and known["jinja2"] == known.get("Jinja2", "3.1.6")

    assert packages._needed([Requirement("trl>=1")], {"trl": version("trl")}).state == "ok"
    other = packages._needed([Requirement("trl>=1")], {"trl": "0.1"})
    assert (other.state, "known: 0.1" in other.found) == ("warning", True)
    old = packages._needed([Requirement("trl>=1000")], known)
    assert (old.state, ">=1000 is needed" in old.found) == ("problem", True)
    gone = packages._extra("bnb", [Requirement("no-such-package")], known)
    assert (gone.state, "no-such-package isn't installed" in gone.found, "[bnb]" in gone.remedy) == (
        "missing",
        True,
        True,
    )


def test_a_package_that_cannot_be_imported_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_build.py").write_text("raise ImportError('libcuda.so.1: not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert packages.import_error("broken_build") == "ImportError: libcuda.so.1: not found"
    assert packages.import_error("json") == ""


def test_a_full_disk_and_an_unreachable_hub_are_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "DISK", 10**18)
    assert machine._folder("store", tmp_path, "Set DLM_HOME.").state == "warning"
    monkeypatch.setattr(machine.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(machine.constants, "ENDPOINT", "http://127.0.0.1:9")
    hub = machine._hub()
    assert (hub.state, "can't be reached" in hub.found) == ("warning", True)


@pytest.mark.parametrize(
    ("name", "machine", "why"),
    [
        ("single.yaml", Here(0, False), None),
        ("single.yaml", Here(8, True), None),
        ("ddp.yaml", Here(0, True), "this machine has none"),
        ("ddp.yaml", Here(1, True), "--num_processes 1"),
        ("ddp.yaml", Here(2, False), None),
        ("fsdp2.yaml", Here(0, True), "this machine has none"),
        ("cpu_2proc.yaml", Here(0, False), None),
        ("cpu_2proc.yaml", Here(2, False), "without a GPU"),
        ("deepspeed_zero2_cpu.yaml", Here(0, False), "needs DeepSpeed"),
        ("deepspeed_zero2_cpu.yaml", Here(0, True), None),
        ("deepspeed_zero3.yaml", Here(2, True), None),
    ],
)
def test_a_launch_file_works_where_it_can(name: str, machine: Here, why: str | None) -> None:
    found = obstacle(FILES[name], machine)
    assert found is None if why is None else why in (found or "")


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_each_launch_file_as_we_do(name: str) -> None:
    read = load_config_from_file(str(shipped("accelerate_configs") / name))
    assert (str(read.distributed_type.value), read.num_processes, read.num_machines) == (
        FILES[name].kind,
        FILES[name].processes,
        FILES[name].machines,
    )
