"""Tasks by name: their options, their errors, and a user's own task from a file."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dlm_trl import tiny
from dlm_trl.notes import DlmError, parse
from dlm_trl.tasks.arithmetic import Arithmetic
from dlm_trl.tasks.load import load_tasks
from dlm_trl.tasks.mcsb import Mcsb

TOKENIZER = AutoTokenizer.from_pretrained(tiny.path())
OWN = """
class Echo:
    name, prefix, stop, max_new_tokens, temperature = "echo", "", (), 0, 0.0
    def __init__(self, words=2):
        self.words = words
"""


def test_one_task_per_stage() -> None:
    easy, hard = load_tasks("mcsb", [{"choices": 3}, {"choices": [5, 9], "labels": ["upper", "digits"]}],
                            tokenizer=TOKENIZER)  # fmt: skip
    assert isinstance(easy, Mcsb) and isinstance(hard, Mcsb)
    assert (easy.range, hard.range, hard.alphabets) == ((3, 3), (5, 9), ("ABCDEFGHI", "123456789"))
    assert load_tasks("arithmetic", tokenizer=TOKENIZER) == [Arithmetic()]


def test_near_distractors_are_random_without_embeddings() -> None:
    stage = {"choices": 3, "distractors": "near"}
    (checked,) = load_tasks("mcsb", [stage], tokenizer=TOKENIZER)
    assert isinstance(checked, Mcsb) and checked.distractors == "random"
    from dlm_trl.models.load import load_base

    embeddings = load_base("tiny").get_input_embeddings().weight
    (task,) = load_tasks("mcsb", [stage], tokenizer=TOKENIZER, embeddings=embeddings)
    assert isinstance(task, Mcsb) and task.distractors == "near"


def test_a_users_task_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    first, second = load_tasks(f"{tmp_path}/own.py:Echo", [{}, {"words": 3}], tokenizer=TOKENIZER)
    assert (first.name, first.words, second.words) == ("echo", 2, 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mcbs", {}, "Use mcsb, arithmetic, prose_qa, span_qa, or FILE.py:NAME"),
        ("mcsb", {"choice": 3}, "has no option choice.*choices, labels, loss"),
        ("mcsb", {"tokenizer": 3}, "has no option tokenizer"),
        ("mcsb", {"choices": 12}, "12 choices don't fit the labels"),
        ("mcsb", {"choices": "many"}, "Invalid choices='many'.*valid integer or .*valid tuple"),
        ("mcsb", {"loss": "label"}, "Invalid loss='label' for the task mcsb. Input should be 'full' or 'labels'"),
        ("mcsb", {"distractors": "nearest"}, "'random' or 'near'"),
        ("mcsb", {"split": "heldout"}, "'train' or 'held_out'"),
        ("arithmetic", {"questions": "model"}, "'template' or 'base'"),
        ("arithmetic", {"digits": "2"}, "Invalid digits='2'"),
        ("arithmetic", {"operations": "%"}, "Unknown operations '%'"),
        ("prose_qa", {}, "needs notes"),
        ("span_qa", {}, "needs notes"),
        ("nowhere.py:Echo", {}, "No such file"),
    ],
)
def test_unknown_names_and_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(DlmError, match=message):
        load_tasks(name, [options], tokenizer=TOKENIZER)


def test_a_broken_file_and_a_missing_name_are_dlm_errors(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(DlmError, match="ModuleNotFoundError"):
        load_tasks(f"{tmp_path}/broken.py:Echo", tokenizer=TOKENIZER)
    with pytest.raises(DlmError, match="no class or function 'Other'"):
        load_tasks(f"{tmp_path}/own.py:Other", tokenizer=TOKENIZER)
    with pytest.raises(DlmError, match="can't be created"):
        load_tasks(f"{tmp_path}/own.py:Echo", [{"letters": 2}], tokenizer=TOKENIZER)


def test_tasks_about_notes_get_the_documents() -> None:
    notes = parse("---\ndlm_id: 01JTRX0000000000000000000A\nbase_model: tiny\n---\nA loaf is made of 500 g of flour.\n")
    (spans,) = load_tasks("span_qa", tokenizer=TOKENIZER, documents=[notes])
    assert "500 g" in [span.text for span in spans.spans]  # type: ignore[attr-defined]
    (sentences,) = load_tasks("prose_qa", tokenizer=TOKENIZER, documents=[notes])
    assert sentences.sentences[0][0].fact.sentence == "A loaf is made of 500 g of flour."  # type: ignore[attr-defined]
