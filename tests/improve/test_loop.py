"""Rounds of training and asking, with a real server as the teacher. Training is a stand-in here that writes the report
of a model which knows what the document's pairs and views say; tests/e2e/test_improve.py runs the real one.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlm_trl.cli.main import app as program
from dlm_trl.improve.loop import improve, missed_sentences
from dlm_trl.improve.rounds import FILE, Round, table
from dlm_trl.notes import DlmError, read
from dlm_trl.notes.store import adapter_dir
from dlm_trl.rows.views import read_views
from dlm_trl.synth import SynthSettings
from tests.synth.test_views import PROSE, asked_for, views_of, write
from tests.synth.writer import HEAD, asked
from tests.teachers.servers import Answer, App, Call, completion

SETTINGS = SynthSettings(teacher="openai:m", filter="dedup-only", views=2, kinds=("question", "rewrite"))
QUESTIONS = (
    {"kind": "held-out", "question": "Where does Alder grow?", "answer": "Beside water."},
    {"kind": "held-out", "question": "When does Birch turn its cut bark red?", "answer": "Within 3 days."},
)


class Training:
    """Answers a question as soon as `needed` pairs and views name its tree; `falls`: answers nothing from then on."""

    def __init__(self, needed: int = 1, falls: int = 99) -> None:
        self.needed, self.falls, self.runs = needed, falls, 0

    def __call__(self, path: Path, recipe: Sequence[str], output_dir: Path) -> None:
        document = read(path)
        texts = [section.content for section in document.sections if section.kind == "instruction"]
        texts += [view.text for view in read_views(document)]
        known = [
            sum(tree in text for text in texts) >= self.needed and self.runs < self.falls for tree in ("Alder", "Birch")
        ]
        self.runs += 1
        output_dir.mkdir(parents=True, exist_ok=True)
        measures = [
            {"name": "F1, held-out", "after": sum(known) / 2, "questions": 2},
            {"name": "perplexity, general text", "after": 44.0, "questions": None},
        ]
        missed = [{"group": q["kind"], **q} for q, k in zip(QUESTIONS, known, strict=True) if not k]
        (output_dir / "report.json").write_text(json.dumps({"measures": measures, "missed": missed}))
        (output_dir / "adapter_config.json").write_text(json.dumps({"run": self.runs}))


class Slow(Training):
    """Gets a little better each time."""

    def __call__(self, path: Path, recipe: Sequence[str], output_dir: Path) -> None:
        super().__call__(path, recipe, output_dir)
        report = json.loads((output_dir / "report.json").read_text())
        report["measures"][0]["after"] = self.runs / 10
        (output_dir / "report.json").write_text(json.dumps(report))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with asked(App(reply=write), monkeypatch) as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path / "home"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "notes.dlm"
    file.write_text(f"{HEAD}{PROSE}\n::instruction::\n### Q\nWhere does Alder grow?\n### A\nBeside water.\n")
    (tmp_path / "questions.jsonl").write_text("".join(f"{json.dumps(question)}\n" for question in QUESTIONS))
    return file


def run(path: Path, train: Any, rounds: int = 3, **more: Any) -> list[Round]:
    recipe = [f"questions={path.parent / 'questions.jsonl'}"]
    return improve(path, SETTINGS, recipe, rounds, path.parent / "out", train, **more)


def test_only_what_is_missed_is_asked_about_until_nothing_is(app: App, path: Path) -> None:
    told: list[str] = []
    done = run(path, Training(), tell=told.append)
    assert [each.number for each in done] == [0, 1]
    assert [each.score for each in done] == [0.5, 1.0]  # the document's pair names Alder
    assert done[0].missed == ("Birch turns its cut bark red within 3 days.",) and done[1].missed == ()
    assert {asked_for(call)[1].split()[0] for call in app.calls} == {"Birch"}
    assert (len(done[1].pairs), len(done[1].views)) == (1, 1)
    assert told[-1] == "Nothing is missed any more."
    before, text = len(app.calls), path.read_text()
    assert run(path, None, tell=told.append) == done, "a finished call trains and asks nothing"
    assert (len(app.calls), path.read_text()) == (before, text)


def test_a_round_that_is_not_better_is_taken_back(app: App, path: Path) -> None:
    texts: list[bytes] = []
    training = Training(needed=4, falls=2)

    def train(*words: Any) -> None:
        texts.append(path.read_bytes())
        training(*words)

    # Round 1 doesn't reach four views per tree, so nothing gets better.
    done = run(path, train)
    assert [each.score for each in done] == [0.0, 0.0] and done[1].taken_back
    assert path.read_bytes() == texts[0] != texts[1]
    assert done[1].pairs and done[1].views and not read_views(read(path))
    current = adapter_dir(read(path).frontmatter.dlm_id) / "versions"
    (version,) = current.iterdir()
    assert json.loads((version / "adapter_config.json").read_text()) == {"run": 1}, "of the best round"
    assert run(path, None) == done, "the rounds have ended"
    assert "1 (taken back)" in table(done)


def test_more_views_of_the_same_sentence_in_each_round(app: App, path: Path) -> None:
    written: Counter[tuple[str, str]] = Counter()

    async def write_next(call: Call) -> str:
        kind, fact, n = asked_for(call)
        written[kind, fact] += n
        assert n == 1, "one of each kind per round, the document's pair counts"
        return "\n".join(views_of(kind, fact, written[kind, fact])[-1:])

    app.reply = write_next
    done = run(path, Slow(needed=99), rounds=2)
    assert [each.score for each in done] == [0.1, 0.2, 0.3]
    assert [len(each.missed) for each in done] == [2, 2, 2]
    assert [len(each.views) for each in done] == [0, 2, 2]
    assert path.read_text().count("How does Birch stand") == 2


def test_a_killed_round_goes_on_without_asking_again(app: App, path: Path) -> None:
    def killed(path: Path, recipe: Sequence[str], output_dir: Path) -> None:
        if output_dir.name == "round-1":
            raise KeyboardInterrupt
        Training()(path, recipe, output_dir)

    with pytest.raises(KeyboardInterrupt):
        run(path, killed)
    asked_before = len(app.calls)
    left = json.loads((path.parent / "out" / FILE).read_text())
    assert [each["score"] for each in left] == [0.5, None] and left[1]["pairs"]
    done = run(path, Training())
    assert [each.score for each in done] == [0.5, 1.0] and len(app.calls) == asked_before
    assert list(done[1].pairs) == left[1]["pairs"]


def test_the_budget_is_for_all_rounds(app: App, path: Path) -> None:
    told: list[str] = []
    limited = replace(SETTINGS, budget_tokens=1)
    recipe = [f"questions={path.parent / 'questions.jsonl'}"]
    done = improve(path, limited, recipe, 3, path.parent / "out", Training(needed=99), told.append)
    assert len(done) == 1 and not app.calls
    assert any("limit on cost or tokens" in line for line in told)


@pytest.mark.parametrize("killed", [False, True])
def test_a_resumed_call_counts_what_was_spent_before(
    app: App, path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    def expensive(call: Call) -> Answer:
        kind, fact, _ = asked_for(call)
        return Answer(body=completion("\n".join(views_of(kind, fact, 1)), prompt_tokens=50_000))

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    app.rule = expensive
    limited, train = replace(SETTINGS, budget_tokens=60_000), Slow(needed=99)
    words = (path, limited, [f"questions={path.parent / 'questions.jsonl'}"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) if killed else nullcontext():
        if killed:  # after the replies, before anything is staged
            patch.setattr("dlm_trl.synth.run.write", kill)
        improve(*words, 1, path.parent / "out", train)
    asked_before, told = len(app.calls), []
    assert asked_before
    done = improve(*words, 2, path.parent / "out", train, told.append)
    assert len(app.calls) == asked_before and any("limit on cost or tokens" in line for line in told), told
    assert [each.spent for each in done] == [(0, 0), (50_000 * asked_before, 3 * asked_before)]


def test_missed_sentences_are_those_of_untrained_questions(path: Path) -> None:
    missed = [{"group": "seen", **QUESTIONS[0]}, {"group": "reverse", **QUESTIONS[1]}]
    assert missed_sentences(read(path), missed) == ["Birch turns its cut bark red within 3 days."]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "No questions to measure by"),
        (("questions",), "is not KEY=VALUE"),
        (("questions=nowhere.jsonl", "--kinds", "riddle"), "Unknown kind of view"),
        (("questions=questions.jsonl", "--teacher", "openai"), "openai"),
    ],
)
def test_what_is_missing_is_reported_before_the_first_round(
    path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(path.parent)
    ran = CliRunner().invoke(program, ["improve", str(path), "--teacher", "hf:tiny", *words])
    assert ran.exit_code in (1, 2), ran.output
    assert message in (str(ran.exception) if isinstance(ran.exception, DlmError) else re.sub(r"\s+", " ", ran.output))
    assert not (path.parent / "runs").exists()


def test_a_damaged_record_is_reported(path: Path) -> None:
    (path.parent / "out").mkdir()
    (path.parent / "out" / FILE).write_text("[{]")
    with pytest.raises(DlmError, match="isn't a record of rounds"):
        run(path, Training())
