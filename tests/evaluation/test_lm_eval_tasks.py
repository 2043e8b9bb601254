"""The tasks for lm-evaluation-harness: run by the harness itself, they give our own numbers to the last digit."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from dlm_trl import tiny
from dlm_trl.evaluation.inventions import ABSTENTION
from dlm_trl.evaluation.lm_eval_tasks import mcsb_results, recall_results, trap_results, write_tasks
from dlm_trl.evaluation.mcsb import McsbQuestion, measure_binding
from dlm_trl.evaluation.notes_score import score_notes
from dlm_trl.evaluation.spec import NotesQuestions
from dlm_trl.models.load import load_tokenizer

SYSTEM = "Answer {{ briefly }}."
WORDS = ("boat", "bread", "clock", "garden", "lamp", "river", "stone", "table")
NOTES = NotesQuestions(
    groups={
        "seen": [(f"What is a {word}?", f"It is a {word}.", SYSTEM) for word in WORDS],
        "held-out": [("Where is the {{ lamp }}?", "On the table.", SYSTEM), ("Who?", "7", SYSTEM)],
    },
    traps=[("How old is the ferry?", ABSTENTION, SYSTEM), ("Who owns it?", ABSTENTION, SYSTEM)],
)


def mcsb_questions() -> list[McsbQuestion]:
    rng = random.Random(0)
    return [
        McsbQuestion(
            word, f"a thing like {word}", [word, *rng.sample([w for w in WORDS if w != word], n)], "ABCDEFG"[: n + 1]
        )
        for word, n in zip(WORDS, (3, 4, 5, 3, 4, 5, 6, 3), strict=True)
    ]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    write_tasks(tmp_path / "tasks", load_tokenizer("tiny"), {"4-7:upper": mcsb_questions()}, NOTES)
    return tmp_path / "tasks"


def run(tasks: Path, name: str, chat: bool) -> dict[str, Any]:
    """The harness's scores of each task, as its Python API gives them."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval isn't installed (extra lm-eval)")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(tiny.path()), dtype="float32", device="cpu", batch_size=4)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    return {
        task: {key.removesuffix(",none"): value for key, value in scores.items() if key.endswith(",none")}
        for task, scores in found["results"].items()
    }


def test_the_harness_binds_symbols_as_we_do(tasks: Path) -> None:
    scores = run(tasks, "dlm_mcsb", chat=False)["dlm_mcsb_4_7_upper"]
    model = AutoModelForCausalLM.from_pretrained(tiny.path(), dtype="float32")
    ours = measure_binding(model, load_tokenizer("tiny"), mcsb_questions())
    assert {name: scores[name] for name in ("accuracy", "ppa", "unchanged")} == {
        "accuracy": ours.accuracy,
        "ppa": ours.ppa,
        "unchanged": ours.unchanged,
    }
    assert 0 < ours.accuracy < 1


def test_the_harness_scores_answers_as_we_do(tasks: Path) -> None:
    scores = run(tasks, "dlm_notes", chat=True)
    model = AutoModelForCausalLM.from_pretrained(tiny.path(), dtype="float32")
    ours = score_notes(model, load_tokenizer("tiny"), NOTES)
    named = {"exact_match": "exact match", "f1": "F1", "fuzzy_match": "fuzzy match"}
    for group, task in (("seen", "dlm_notes_seen"), ("held-out", "dlm_notes_held_out")):
        for theirs, name in named.items():
            assert scores[task][theirs] == pytest.approx(ours.shares[group][name], abs=1e-12), (group, name)
    assert scores["dlm_notes_traps"]["inventions"] == ours.shares["traps"]["inventions"]
    assert ours.shares["seen"]["F1"] > 0


def test_the_files(tasks: Path) -> None:
    assert {file.name for file in tasks.iterdir()} == {
        "utils.py",
        *(
            f"{name}.{suffix}"
            for name in ("dlm_mcsb_4_7_upper", "dlm_notes_seen", "dlm_notes_held_out", "dlm_notes_traps")
            for suffix in ("yaml", "jsonl")
        ),
    }
    rows = [json.loads(line) for line in (tasks / "dlm_mcsb_4_7_upper.jsonl").read_text().splitlines()]
    assert len(rows) == sum(len(q.options) for q in mcsb_questions())
    assert all(row["options"][row["right"]] == row["word"] for row in rows)
    text = (tasks / "dlm_notes_traps.yaml").read_text().replace("!function ", "")
    task = yaml.safe_load(text)
    assert task["process_results"] == "utils.trap_results"
    assert task["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 24}
    utils: dict[str, Any] = {}
    exec((tasks / "utils.py").read_text(), utils)
    assert utils["recall_results"] is recall_results


def test_the_functions_that_the_harness_calls() -> None:
    doc = {"number": 3, "options": ["boat", "lamp"], "word": "lamp"}
    assert mcsb_results(doc, [(-2.0, False), (-1.0, True)])["ppa"] == (3, "lamp", "lamp")
    assert recall_results({"answer": "The gas!"}, [" gas\n"]) == {"exact_match": 1.0, "f1": 1.0, "fuzzy_match": 0.0}
    assert trap_results({}, ["The notes don't say."]) == {"inventions": 0.0}
    assert trap_results({}, ["In 1871."]) == {"inventions": 1.0}
