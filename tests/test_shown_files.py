"""What a newcomer sees first is true: the README's examples run, the demo's notes and questions fit together."""

import json
import re
import shutil
from pathlib import Path

import datasets
import pytest

from dlm_trl.export.steps import LIMITS
from dlm_trl.notes import parse, read
from dlm_trl.notes.check import check
from dlm_trl.rows.convert import KINDS

ROOT = Path(__file__).parent.parent
NOTES = ROOT / "recipes" / "notes.dlm"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_readme_s_document_is_one() -> None:
    (example,) = (block for block in blocks("") if block.startswith("---\n"))
    document = parse(example)
    assert [section.kind for section in document.sections] == ["prose", "instruction"]
    assert document.sections[1].pairs()[0].answer == "A rest of flour and water before the salt goes in."


def test_the_readme_s_own_task_is_the_recipe_s() -> None:
    shown = next(block for block in blocks("python") if "class Naming" in block)
    assert (ROOT / "recipes" / "naming.py").read_text(encoding="utf-8").endswith(shown)
    assert len(shown.split("class Naming")[1].splitlines()) <= 30


def test_the_readme_s_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recipes/notes.dlm", "notes/one.dlm", "my_notes/one.dlm", "a.dlm", "b.dlm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(NOTES, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = blocks("python")
    assert len(found) >= 2
    for block in found:
        exec(compile(block, "README.md", "exec"), {})


def test_the_readme_names_every_kind_of_row() -> None:
    table = README.split("| name | rows |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))) == set(KINDS)


def test_the_readme_s_limits_are_those_that_are_checked() -> None:
    shown = README.split("<!-- limits -->")[1].split("<!-- /limits -->")[0].strip().splitlines()[2:]
    assert shown == [f"| {limit.step} | {limit.name} | {limit} | {limit.failing} |" for limit in LIMITS]


def test_the_readme_s_files_exist() -> None:
    named = set(re.findall(r"\b(?:recipes|accelerate_configs|benchmarks|dlm_trl|scripts)/[\w/.]*\.\w+", README))
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_the_demo_s_notes_are_clean_and_large_enough() -> None:
    document = read(NOTES)
    prose = [section for section in document.sections if section.kind == "prose"]
    pairs = [pair for section in document.sections if section.kind == "instruction" for pair in section.pairs()]
    assert check(NOTES) == []
    assert len(prose) >= 10
    assert len(pairs) >= 40
    assert len({pair.question for pair in pairs}) == len(pairs)


def test_every_pair_of_the_demo_has_a_reworded_question_that_is_not_trained() -> None:
    taught = {
        pair.question: pair.answer
        for section in read(NOTES).sections
        if section.kind == "instruction"
        for pair in section.pairs()
    }
    lines = (ROOT / "recipes" / "notes_questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    assert {row["question"]: row["answer"] for row in asked} == taught
    assert len({row["reworded"] for row in asked}) == len(asked)
    assert not {row["reworded"] for row in asked} & taught.keys()
