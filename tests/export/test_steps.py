"""The steps of the export: each target has its chain, and a new step is one more entry."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm_trl.export import ship as ship_module
from dlm_trl.export.checks import Check
from dlm_trl.export.record import read_lineage
from dlm_trl.export.step_info import INFO
from dlm_trl.export.steps import LIMITS, STEPS, chain
from dlm_trl.export.verify import VerifyResult, step_between
from dlm_trl.models import lineage
from dlm_trl.notes import DlmError


def test_each_target_has_its_chain_of_steps() -> None:
    assert [step.name for step in chain("merged")] == ["merge"]
    assert [step.name for step in chain("awq")] == ["merge", "awq"]
    with pytest.raises(DlmError, match=r"Can't export to 'aqw'\. Choose one of: merged, awq\.") as caught:
        chain("aqw")
    assert caught.value.kind == "UsageError"


def test_names_are_unique_and_each_step_starts_from_a_known_one() -> None:
    assert len({limit.name for limit in LIMITS}) == len(LIMITS)
    assert len({step.target for step in STEPS.values()}) == len(STEPS)
    for name, step in STEPS.items():
        assert step.name == name
        assert step.previous in {"train", *STEPS}
        assert {limit.step for limit in step.limits} == {name}


def test_every_step_is_described() -> None:
    assert [(name, info.name) for name, info in INFO.items()] == [(name, name) for name in STEPS]


def test_a_new_step_is_one_more_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(before: Path, after: Path, calibration: Path | None) -> None:
        runs.append((before.name, after.name))
        after.mkdir()
        (after / "weights.bin").touch()

    def verified(before: Path, after: Path) -> VerifyResult:
        return VerifyResult(step_between(before, after).name, [Check("size", 1.0)], [], f"serve {after.name}")

    runs: list[tuple[str, str]] = []
    convert = replace(
        STEPS["awq"],
        name="convert",
        target="converted",
        fields={"file": str},
        run=run,
        holds=lambda folder: (folder / "weights.bin").is_file() and not (folder / "config.json").is_file(),
    )

    def merge(before: Path, after: Path, calibration: Path | None) -> None:
        runs.append((before.name, after.name))
        after.mkdir()
        (after / "config.json").write_text("{}")

    monkeypatch.setitem(STEPS, "convert", convert)
    monkeypatch.setitem(INFO, "convert", convert)
    monkeypatch.setitem(STEPS, "merge", replace(STEPS["merge"], run=merge))
    monkeypatch.setattr(ship_module, "verify", verified)
    adapter = tmp_path / "notes"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    shown: list[str] = []
    assert ship_module.ship(adapter, adapter, "converted", say=shown.append) == tmp_path / "notes-converted"
    assert runs == [("notes", "notes-merged"), ("notes-merged", "notes-converted")]
    assert "serve notes-merged" in shown[0] and "serve notes-converted" in shown[1]

    lineage.write(adapter, [{"step": "convert"}])
    with pytest.raises(DlmError, match="'file' is missing"):
        read_lineage(adapter)


@pytest.mark.parametrize("name", STEPS)
def test_a_record_that_lacks_a_field_is_rejected(tmp_path: Path, name: str) -> None:
    for field in STEPS[name].fields:
        lineage.write(tmp_path, [{"step": name, **{other: None for other in STEPS[name].fields if other != field}}])
        with pytest.raises(DlmError, match="lineage"):
            read_lineage(tmp_path)
