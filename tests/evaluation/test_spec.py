"""EvaluationSpec: a saved spec gives the same questions again, in the right groups."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dlm_trl.evaluation.recall import RecallQuestion
from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.notes import DlmError
from dlm_trl.tasks.mcsb import Mcsb

HEAD = "---\ndlm_id: 01K9BREADW1THS0VRD0VGH2T3R\ndlm_version: 15\nbase_model: tiny\nsystem_prompt: Be brief.\n---\n"
PAIR = "::instruction::\n### Q\nWhat is {n} of forty?\n### A\nIt is {n}.\n"


@pytest.fixture
def notes(tmp_path: Path) -> str:
    path = tmp_path / "notes.dlm"
    path.write_text(HEAD + "Some prose.\n" + "".join(PAIR.format(n=n) for n in range(40)))
    return str(path)


def questions_of(spec: EvaluationSpec) -> dict[str, list[RecallQuestion]]:
    document = spec.read_document()
    return spec.recall_questions(*spec.pairs(document), document)


def test_the_groups_are_disjoint_and_cover_the_document(notes: str) -> None:
    eval_spec = EvaluationSpec(notes)
    groups = questions_of(eval_spec)
    seen, held_out = set(groups["seen"]), set(groups["held-out"])
    assert not seen & held_out
    assert seen | held_out == {(f"What is {n} of forty?", f"It is {n}.", "Be brief.") for n in range(40)}
    assert set(groups) == {"seen", "held-out"}
    assert questions_of(EvaluationSpec(**json.loads(json.dumps(asdict(eval_spec))))) == groups


def test_without_training_rows_all_pairs_are_held_out_and_without_notes_there_are_no_pairs(notes: str) -> None:
    eval_spec = EvaluationSpec(notes, rows="none")
    assert {group: len(asked) for group, asked in questions_of(eval_spec).items()} == {"held-out": 40}
    assert questions_of(EvaluationSpec()) == {}


def test_a_limit_samples_the_whole_document_and_reworded_questions_are_read(notes: str, tmp_path: Path) -> None:
    # U+2028 ends a line for str.splitlines, but not in JSON lines.
    row = '{{"reworded": "Which\u2028is {n}?", "answer": "{n}"}}'
    lines = [row.format(n=n) for n in range(9)]
    (tmp_path / "reworded.jsonl").write_text("\n".join(lines), encoding="utf-8")
    eval_spec = EvaluationSpec(
        notes, validation_fraction=0, questions=str(tmp_path / "reworded.jsonl"), max_questions=4
    )
    groups = questions_of(eval_spec)
    assert [question for question, *_ in groups["seen"]] == [f"What is {n} of forty?" for n in (0, 10, 20, 30)]
    assert groups["reworded"][1] == ("Which\u2028is 2?", "2", "Be brief.")
    (tmp_path / "reworded.jsonl").write_text(lines[0] + '\n{"question": "no answer"}\n', encoding="utf-8")
    with pytest.raises(DlmError, match=r"reworded\.jsonl:2: Invalid question"):
        questions_of(eval_spec)
    (tmp_path / "reworded.jsonl").write_text('{"reworded": "Ä?", "answer": "Ä"}', encoding="latin-1")
    with pytest.raises(DlmError, match=r"reworded\.jsonl: The questions file isn't UTF-8"):
        questions_of(eval_spec)


def test_multiple_choice_questions_need_conditions(tmp_path: Path) -> None:
    base, tokenizer = load_base("tiny"), load_tokenizer("tiny")
    assert EvaluationSpec().question_sets(base, tokenizer) == {}
    words = Mcsb(tokenizer, choices=3, split="held_out").words[:6]
    (tmp_path / "glosses.json").write_text(json.dumps(dict.fromkeys(words, "a thing that is known")))
    eval_spec = EvaluationSpec(conditions=["3:upper"], condition_questions=3, glosses=str(tmp_path / "glosses.json"))
    sets = eval_spec.question_sets(base, tokenizer)
    assert {name: len(every) for name, every in sets.items()} == {"3:upper": 3, "glosses": 3}
    assert EvaluationSpec(**json.loads(json.dumps(asdict(eval_spec)))).question_sets(base, tokenizer) == sets
