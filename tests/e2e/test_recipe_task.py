"""The recipe with a task: rows alone or mixed with a document's, the curriculum, the measures, and invalid settings."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from dlm_trl import tiny
from dlm_trl.models.load import load_adapted
from dlm_trl.notes import DlmError
from tests.e2e.conftest import Recipe, losses

SMALL = ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, "--lora_r", 2, "--save_strategy", "no")
SUMS = ("--task", "arithmetic", "--measure", "false", *SMALL)
LETTERS = Path(__file__).parents[1] / "tasks" / "letters.py"


def history(out: Path) -> list[dict[str, float]]:
    return json.loads((out / "report.json").read_text())["history"]


def test_a_skill_without_a_document(recipe: Recipe, tmp_path: Path) -> None:
    """Two stages, with an accuracy that starts the second one at once; conditions and glosses are measured."""
    stages = json.dumps([{"choices": 2}, {"choices": 3, "distractors": "near"}])
    out = recipe(
        *("--task", "mcsb", "--base_model", "tiny", "--stages", stages, "--stage_accuracy", 0.01, "--stage_window", 1),
        *("--max_steps", 3, "--eval_steps", 2, "--conditions", "3:upper", "--condition_questions", 4),
        *("--glosses", tiny.path() / "words.json", *SMALL),
        notes=None,
    )
    report = json.loads((out / "report.json").read_text())
    assert {"mcsb/3:upper/accuracy", "mcsb/glosses/accuracy"} <= {measure["name"] for measure in report["measures"]}
    assert all(m["before"] is not None for m in report["measures"] if m["unit"] == "share")
    assert [line["step"] for line in history(out) if "eval_perplexity" in line] == [0, 2, 3]
    trained = [line for line in history(out) if "loss" in line]
    assert [line["online/stage"] for line in trained] == [1, 2, 2]
    assert all(line["online/rows"] == 8 for line in trained)
    assert report["run"]["task"] == "mcsb" and "document" not in report["run"]
    assert "## Rows of the last step" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert "Rows of the last step" in page and "mcsb/3:upper/accuracy" in page and "Accuracy" in page
    assert (
        "Synthetic rows of the task `mcsb`, written during the run by the frozen base itself: 100%"
        in (out / "README.md").read_text()
    )
    assert load_adapted(out)[0].peft_config["default"].r == 2
    assert not list((tmp_path / "home").glob("store/*/adapter*")), "there is no document to store the adapter for"


def test_your_own_task(recipe: Recipe) -> None:
    own = Path(__file__).parents[2] / "recipes" / "naming.py"
    out = recipe(
        *("--task", f"{own}:Naming", "--base_model", "tiny", "--measure", "false", "--max_steps", 2, *SMALL), notes=None
    )
    drafts = [json.loads(line) for line in (out / "online_rows-0.jsonl").read_text().splitlines()]
    rows = [draft for draft in drafts if not draft["rejected"]]
    assert [sum(row["step"] == step for row in rows) for step in (0, 1)] == [8, 8]
    assert all(row["prompt"] == f"Description:{row['generated'].rstrip()}\nWord:" for row in rows)


def test_task_rows_on_disk(recipe: Recipe, tmp_path: Path) -> None:
    write = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "synthesize_task.py"))["main"]
    folder = tmp_path / "rows"
    argv = ("--task", "mcsb", "--stages", '[{"choices": 3, "held_out": 0.2}]', "--base_model", "tiny", "--n", "16")
    write([*argv, "--rows_per_step", "8", "--out", str(folder)])
    settings = ("--base_model", "tiny", "--task_rows", folder, "--num_train_epochs", 1, *SMALL)
    out = recipe(*settings, "--conditions", "3:upper", "--condition_questions", 4, notes=None)
    report = json.loads((out / "report.json").read_text())
    assert [line["step"] for line in report["history"] if "loss" in line] == [1, 2]
    assert "mcsb/3:upper/accuracy" in {measure["name"] for measure in report["measures"]}
    assert "written before the run, from the folder `rows`" in (out / "README.md").read_text()
    with pytest.raises(DlmError, match="set one of the two"):
        recipe(*settings, "--task", "mcsb", "--max_steps", 1, notes=None)
    with pytest.raises(DlmError, match="isn't a folder of task rows"):
        recipe("--base_model", "tiny", "--task_rows", tmp_path, notes=None)


def test_rows_of_a_task_mixed_with_a_documents(recipe: Recipe) -> None:
    out = recipe(*SUMS, "--synthetic_fraction", 0.5, "--num_train_epochs", 1, "--measure", "true", "--max_questions", 2)
    trained = [line for line in history(out) if "loss" in line]
    assert sum(line["online/rows"] for line in trained) in (11, 12, 13), "half of 24, give or take one"
    card = (out / "README.md").read_text()
    assert (
        "| people, as pairs |" in card and "`arithmetic`, written during the run by the frozen base itself: 50%" in card
    )


def test_context_distillation_of_pairs_and_of_a_task(recipe: Recipe, tmp_path: Path) -> None:
    settings = ("--max_steps", 2, "--logging_steps", 1, "--max_questions", 1, *SMALL)
    told = ("--task", f"{LETTERS}:ToldLetters", "--rows", "none", "--prose", "false")
    pairs, task = (
        recipe("--objective", "kl", *settings, output="pairs"),
        recipe("--objective", "both", *told, *settings),
    )
    for folder in (pairs, task):
        trained = [line for line in history(folder) if "loss" in line]
        assert len(trained) == 2 and all(line["distillation/kl"] > 0 for line in trained)


def test_untrained_pairs_are_measured(recipe: Recipe) -> None:
    out = recipe(
        *SUMS, "--measure", "true", "--rows", "none", "--prose", "false", "--max_steps", 1, "--max_questions", 3
    )
    report = json.loads((out / "report.json").read_text())
    assert {sample["group"] for sample in report["samples"]} == {"held-out"}
    assert next(m for m in report["measures"] if m["name"] == "validation loss")["before"] > 0
    assert "No row was trained on as it is written" in (out / "README.md").read_text()


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_resumed_run_of_a_task_equals_the_uninterrupted_one(recipe: Recipe, packing: str) -> None:
    stages = json.dumps([{"operations": "+"}, {"operations": "-", "digits": 3}])
    settings = (
        *SUMS, "--stages", stages, "--stage_accuracy", 0.01, "--stage_window", 1, "--packing", packing,
        "--rows", "none", "--prose", "false", "--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2,
    )  # fmt: skip
    whole = recipe(*settings, output="whole")
    recipe(*settings, output="parts")
    shutil.rmtree(whole.parent / "parts" / "checkpoint-4")
    resumed = recipe(*settings, "--resume_from_checkpoint", "true", output="parts")
    assert losses(whole) == losses(resumed) and len(losses(whole)) == 4
    rows = [(folder / "online_rows-0.jsonl").read_text() for folder in (whole, resumed)]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) >= 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--task", "mcsb"), "leave no room for the document's"),
        (("--task", "mcsb", "--rows", "none", "--prose", "false"), "never ends by itself: set max_steps"),
        (("--task", "mcbs", "--max_steps", 1), "Unknown task 'mcbs'"),
        (("--task", "arithmetic", "--stages", "[3]"), "isn't a list of mappings"),
        (("--task", "arithmetic", "--stages", "{"), "isn't valid JSON"),
        (("--task", "arithmetic", "--stages", '[{"digit": 3}]'), "no option digit"),
        (("--stages", '[{"digits": 3}]'), "no task is set"),
        (("--task", "arithmetic", "--synthetic_fraction", 1.5), "synthetic_fraction is 1.5"),
        (("--task", "arithmetic", "--task_teacher", "gpt-4"), "openai:<model>"),
        (("--task", "arithmetic", "--conditions", "5-upper"), "doesn't have the form CHOICES:LABELS"),
        (("--task", "arithmetic", "--glosses", "nowhere.json"), "nowhere.json"),
        (("--task", "arithmetic", "--objective", "kl", "--max_steps", 1), "task arithmetic gives none"),
        (("--objective", "both", "--rows", "none"), "for pairs and tasks, and there are none"),
    ],
)
def test_invalid_task_settings_are_reported_before_weights_are_loaded(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, settings: tuple, message: str
) -> None:
    monkeypatch.setattr("torch.nn.Module.load_state_dict", None)
    with pytest.raises(DlmError, match=message):
        recipe(*settings)


def test_a_missing_document_or_base_is_reported(recipe: Recipe) -> None:
    with pytest.raises(DlmError, match="No base model is set"):
        recipe("--task", "arithmetic", notes=None)
    with pytest.raises(DlmError, match="No document and no task"):
        recipe("--base_model", "tiny", notes=None)
