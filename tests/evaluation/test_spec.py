"""EvaluationSpec: a saved spec gives the same questions again, in the right groups."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dlm_trl.evaluation.inventions import ABSTENTION
from dlm_trl.evaluation.recall import RecallQuestion
from dlm_trl.evaluation.spec import GROUPS, TRAPS, EvaluationSpec
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
    return dict(spec.notes_questions(*spec.pairs(document), document).groups)


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
    with pytest.raises(DlmError, match=r"reworded\.jsonl:2: Invalid question: reworded is missing"):
        questions_of(eval_spec)
    (tmp_path / "reworded.jsonl").write_text('{"reworded": "Ä?", "answer": "Ä"}', encoding="latin-1")
    with pytest.raises(DlmError, match=r"reworded\.jsonl: The questions file isn't UTF-8"):
        questions_of(eval_spec)


def file_of(tmp_path: Path, *rows: dict[str, object] | str) -> str:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_each_kind_of_a_questions_file_is_a_group_with_its_lines(notes: str, tmp_path: Path) -> None:
    file = file_of(
        tmp_path,
        {"question": "What is 0 of forty?", "reworded": "Of forty, which is 0?", "answer": "It is 0."},
        {"kind": "trap", "question": "Who counted to forty?"},
        {"kind": "held-out", "question": "What follows 39?", "answer": "Nothing."},
        {"kind": "reverse", "question": "Of what is it 3?", "answer": "Forty."},
        {"kind": "reworded", "reworded": "Of forty, which is 1?", "answer": "It is 1."},
    )
    for fraction, held_out in ((0.0, 0), (0.5, None)):
        spec = EvaluationSpec(notes, validation_fraction=fraction, questions=file)
        document = spec.read_document()
        found = spec.notes_questions(*spec.pairs(document), document)
        assert tuple(found.groups) == GROUPS
        assert found.groups["reverse"] == [("Of what is it 3?", "Forty.", "Be brief.")]
        assert found.traps == [("Who counted to forty?", ABSTENTION, "Be brief.")]
        assert list(found.every()) == [*GROUPS, TRAPS]
        *pairs, last = found.groups["held-out"]
        assert last == ("What follows 39?", "Nothing.", "Be brief."), "it joins the pairs that the split held out"
        assert len(pairs) == held_out or (held_out is None and len(pairs) > 5)
        assert found.places["held-out"]["What follows 39?"] == (file, 3)
        assert found.places["reworded"]["Of forty, which is 1?"] == (file, 5)
        lines = Path(notes).read_text().splitlines()
        for group in ("seen", "held-out"):
            for question, *_ in found.groups[group][:-1]:
                place = found.places[group][question]
                assert place.file == notes and question in "\n".join(lines[place.line - 1 : place.line + 1])
        assert found.places["reworded"]["Of forty, which is 0?"].file == notes, "the pair's line"


def test_a_question_that_a_pair_asks_is_not_held_out(notes: str, tmp_path: Path) -> None:
    rows = [
        {"kind": "held-out", "question": "what is 3 of forty", "answer": "3"},
        {"kind": "held-out", "question": "What is 3 of fifty?", "answer": "3"},
        {"reworded": "What is the 4 of forty?", "answer": "4"},
        {"kind": "reverse", "question": "What is 3 of fifty?", "answer": "3"},
        {"kind": "reverse", "question": "What is 3 of fifty?", "answer": "3"},
    ]
    groups = questions_of(EvaluationSpec(notes, validation_fraction=0, questions=file_of(tmp_path, *rows)))
    assert {group: [question for question, *_ in asked] for group, asked in groups.items() if group != "seen"} == {
        "held-out": ["What is 3 of fifty?"],
        "reverse": ["What is 3 of fifty?"],
    }


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"kind": "heldout", "question": "q", "answer": "a"}, "unknown kind 'heldout'"),
        ({"kind": ["trap"], "question": "q"}, "unknown kind"),
        ({"kind": "held-out", "question": "q"}, "answer is missing for kind held-out"),
        ({"kind": "trap", "question": "q", "answer": "a"}, "'answer' doesn't belong to kind trap"),
        ({"kind": "reverse", "question": "q", "answer": "a", "reworded": "r"}, "'reworded' doesn't belong"),
        ({"question": "q", "answer": "a"}, "reworded is missing"),
        ({"reworded": "r", "answer": " "}, "answer must be a text that isn't empty"),
        ({"reworded": "r", "answer": 3}, "answer must be a text"),
        ({"reworded": "r", "answer": "a", "anwser": "b"}, "'anwser' doesn't belong to kind reworded"),
        (["reworded"], "not a JSON object"),
        ('{"kind": "trap",', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_an_invalid_line_is_named(notes: str, tmp_path: Path, row: dict[str, object] | str, problem: str) -> None:
    spec = EvaluationSpec(notes, questions=file_of(tmp_path, {"reworded": "r", "answer": "a"}, row))
    with pytest.raises(DlmError, match=rf"questions\.jsonl:2: Invalid question: {problem}"):
        questions_of(spec)


def test_multiple_choice_questions_need_conditions(tmp_path: Path) -> None:
    base, tokenizer = load_base("tiny"), load_tokenizer("tiny")
    assert EvaluationSpec().question_sets(base, tokenizer) == {}
    words = Mcsb(tokenizer, choices=3, split="held_out").words[:6]
    (tmp_path / "glosses.json").write_text(json.dumps(dict.fromkeys(words, "a thing that is known")))
    eval_spec = EvaluationSpec(conditions=["3:upper"], condition_questions=3, glosses=str(tmp_path / "glosses.json"))
    sets = eval_spec.question_sets(base, tokenizer)
    assert {name: len(every) for name, every in sets.items()} == {"3:upper": 3, "glosses": 3}
    assert EvaluationSpec(**json.loads(json.dumps(asdict(eval_spec)))).question_sets(base, tokenizer) == sets
