"""A task in a run: which prose it may use, and problems found before training."""

from pathlib import Path

import pytest

from dlm_trl.models.load import load_tokenizer
from dlm_trl.train.config import Configuration, read_configuration
from dlm_trl.train.data import Rows, read_rows
from dlm_trl.train.measure import task_measures
from dlm_trl.train.spec import evaluation_spec
from dlm_trl.train.task import check_task, open_curriculum

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\n"
ADAPTERS = "training:\n  adapters:\n    one: {}\n    two: {}\n"


def configured(path: Path, text: str, *more: str) -> Configuration:
    path.write_text(text, encoding="utf-8")
    settings = ["--task", "span_qa", "--rows", "none", "--max_steps", "2", "--output_dir", str(path.parent / "out")]
    return read_configuration(["--notes", str(path), *settings, *more])


def rows_of(configuration: Configuration) -> Rows:
    spec = evaluation_spec(configuration.notes, configuration.task, configuration.training.seed)
    return read_rows(configuration.document, configuration.notes, spec)


def problems_of(configuration: Configuration) -> list[str]:
    spec = evaluation_spec(configuration.notes, configuration.task, configuration.training.seed)
    return check_task(configuration, load_tokenizer("tiny"), rows_of(configuration), spec)


def passages_used(configuration: Configuration) -> set[str]:
    """The passages from which span_qa draws its answers."""
    passages = rows_of(configuration).passages
    (task,) = open_curriculum(configuration.task, load_tokenizer("tiny"), passages).stages
    return {span.passage for span in task.spans}


def test_prose_of_another_adapter_is_not_used(tmp_path: Path) -> None:
    text = f"{HEAD}{ADAPTERS}---\nA loaf is a piece of bread.\n"
    text += "\n::prose#one::\nA crumb is a small piece.\n\n::prose#two::\nA crust is a hard shell.\n"
    for name, own in (("one", "A crumb is a small piece."), ("two", "A crust is a hard shell.")):
        for learned in ("true", "false"):
            more = ("--adapter_name", name, "--prose", learned, "--validation_fraction", "0")
            used = passages_used(configured(tmp_path / "notes.dlm", text, *more))
            assert used == {"A loaf is a piece of bread.", own}


def test_held_out_prose_is_not_used(tmp_path: Path) -> None:
    text = f"{HEAD}---\n" + "".join(f"\n::prose::\nThe number of day {n} is {n} loaves.\n" for n in range(20))
    more = ("--validation_fraction", "0.3", "--synthetic_fraction", "0.5")
    configuration = configured(tmp_path / "notes.dlm", text, *more)
    rows = rows_of(configuration)
    assert len(rows.held_out_prose) > 2
    assert passages_used(configuration) == {row["text"].strip() for row in rows.prose}
    without_prose_rows = configured(tmp_path / "notes.dlm", text, *more, "--prose", "false")
    assert len(passages_used(without_prose_rows)) == 20


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ('[{"choices": 3, "held_out": 0.3}, {"choices": 5}]', "differ in held_out"),
        ('[{"split": "held_out"}]', "the words to measure with"),
        ("[{}]", None),
    ],
)
def test_held_out_words_are_never_trained(tmp_path: Path, stages: str, message: str | None) -> None:
    settings = ["--base_model", "tiny", "--max_steps", "2", "--output_dir", str(tmp_path / "out")]
    configuration = read_configuration(["--task", "mcsb", "--stages", stages, *settings])
    problems = problems_of(configuration)
    assert [message in problem for problem in problems] == ([True] if message else [])


def test_a_task_that_raises_is_reported_before_weights_are_loaded(tmp_path: Path) -> None:
    own = (Path(__file__).parents[2] / "recipes" / "naming.py").read_text(encoding="utf-8")
    settings = ["--base_model", "tiny", "--max_steps", "2", "--output_dir", str(tmp_path / "out")]
    for broken in ("def draw(self, rng, n):", "def prompts(self, items):", "def metrics(self, examples, predictions):"):
        assert broken in own
        (tmp_path / "own.py").write_text(own.replace(broken, f"{broken}\n        return nothing"), encoding="utf-8")
        configuration = read_configuration(["--task", f"{tmp_path / 'own.py'}:Naming", *settings])
        (problem,) = problems_of(configuration)
        assert "own.py:Naming fails: NameError: name 'nothing' is not defined" in problem


def test_the_eval_spec_has_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.dlm").write_text(f"{HEAD}---\nA loaf is a piece of bread.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    argv = ["--notes", "notes.dlm", "--questions", "reworded.jsonl", "--output_dir", "out"]
    configuration = read_configuration(argv)
    spec = evaluation_spec(configuration.notes, configuration.task, seed=0)
    assert (spec.notes, spec.questions) == (str(tmp_path / "notes.dlm"), str(tmp_path / "reworded.jsonl"))
    assert spec.glosses is None


def test_conditions_added_on_resuming_have_no_number_before() -> None:
    first = {"step": 0, "eval_mcsb/5:upper/accuracy": 0.2}
    last = {"step": 9, "eval_mcsb/5:upper/accuracy": 0.9, "eval_mcsb/glosses/accuracy": 0.8}
    values = {measure.name: (measure.before, measure.after) for measure in task_measures([first, last])}
    assert values == {"mcsb/5:upper/accuracy": (0.2, 0.9), "mcsb/glosses/accuracy": (None, 0.8)}
