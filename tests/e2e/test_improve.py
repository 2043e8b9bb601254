"""Rounds of training and asking with the real recipe in processes of its own, and a real server as the teacher."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlm_trl.improve.loop import improve
from dlm_trl.notes import read
from dlm_trl.rows.views import read_views
from dlm_trl.synth import SynthSettings
from tests.synth.test_views import PROSE, write
from tests.synth.writer import HEAD, asked
from tests.teachers.servers import App

QUESTIONS = (
    {"kind": "held-out", "question": "When does Birch turn its cut bark red?", "answer": "Within 3 days."},
    {"kind": "reverse", "question": "What tree grows beside water?", "answer": "Alder."},
    {"kind": "trap", "question": "Who planted the first Birch?"},
)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[App]:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))
    with asked(App(reply=write), monkeypatch) as running:
        yield running


def test_two_trainings_with_a_round_of_asking_between_them(app: App, tmp_path: Path) -> None:
    path, questions = tmp_path / "notes.dlm", tmp_path / "questions.jsonl"
    path.write_text(f"{HEAD}{PROSE}", encoding="utf-8")
    questions.write_text("".join(f"{json.dumps(question)}\n" for question in QUESTIONS))
    recipe = [f"questions={questions}", "max_steps=2", "lora_r=2", "save_strategy=no", "validation_fraction=0"]
    settings = SynthSettings(teacher="openai:m", filter="dedup-only", views=4, kinds=("question", "rewrite"))
    original = path.read_bytes()
    first, second = improve(path, settings, recipe, 1, tmp_path / "rounds")
    assert first.groups.keys() == second.groups.keys() == {"held-out", "reverse"}
    assert first.perplexity and first.inventions is not None
    assert len(first.missed) == 2 and second.sentences == 2 and len(second.pairs) == 4 and len(second.views) == 4
    # Two steps of the embedded model teach nothing, so what the round added is gone again.
    assert second.taken_back and path.read_bytes() == original and not read_views(read(path))
    rows = json.loads((tmp_path / "rounds" / "round-1" / "report.json").read_text())["run"]["rows"]
    assert rows["openai:m"] == 4, "the second training had the new pairs"
