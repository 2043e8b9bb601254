"""Our questions as tasks of EleutherAI's lm-evaluation-harness, to ask any model that it can load.

    write_tasks(Path("runs/tasks"), tokenizer, sets, questions)
    # lm_eval --include_path runs/tasks --tasks dlm_mcsb …, and with --apply_chat_template --tasks dlm_notes …

A task is a YAML file and its questions as JSON lines. The scores are computed here, by the functions that also score a
run: each YAML names one of `mcsb_results`, `recall_results` and `trap_results`, which get a question (a line of the
JSON file) and the harness's results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz
from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import exact_match, token_f1
from dlm_trl.evaluation.inventions import abstains
from dlm_trl.evaluation.mcsb import McsbQuestion, mcsb_scores, rotated
from dlm_trl.evaluation.notes_score import answer_limit
from dlm_trl.evaluation.recall import FUZZY_RATIO
from dlm_trl.evaluation.spec import TRAPS, NotesQuestions
from dlm_trl.notes.files import replace_file
from dlm_trl.tasks import prompts

MCSB, NOTES = "dlm_mcsb", "dlm_notes"  # the tags that select all tasks of a kind
VERSION = 1
UTILS = '''"""What the YAML files beside this one call; the scores are dlm_trl's."""

from dlm_trl.evaluation.lm_eval_tasks import (  # noqa: F401
    accuracy,
    mcsb_results,
    ppa,
    recall_results,
    trap_results,
    unchanged,
)
'''
Picked = tuple[int, str, str]  # the question's number, the picked option, the right one


def write_tasks(
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, Sequence[McsbQuestion]],
    questions: NotesQuestions | None = None,
) -> list[str]:
    """Write a task for each set of MCSB questions and each group of questions about a document; returns their names.

    Answers are cut off where `score_notes` cuts them off with this tokenizer. Raises DlmError (DlmWriteError).
    """
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "utils.py", UTILS.encode())
    names = []
    for name, asked in sets.items():
        names.append(_task_name(MCSB, name))
        _write(out, names[-1], _mcsb_rows(asked), _mcsb_yaml())
    for group, of_group in (questions.every() if questions else {}).items():
        names.append(_task_name(NOTES, group))
        rows = [{"question": q, "answer": answer, "system": system or ""} for q, answer, system in of_group]
        assert questions is not None
        _write(out, names[-1], rows, _notes_yaml(group == TRAPS, answer_limit(tokenizer, questions)))
    return names


def mcsb_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Picked]:
    """The option with the likeliest label, for each metric of a set of questions."""
    likeliest = max(range(len(results)), key=lambda i: results[i][0])
    picked = (doc["number"], doc["options"][likeliest], doc["word"])
    return dict.fromkeys(("accuracy", "ppa", "unchanged"), picked)


def accuracy(picked: Sequence[Picked]) -> float:
    """`Binding.accuracy` of the options picked in all rotations of all questions."""
    return _scores(picked)["accuracy"]


def ppa(picked: Sequence[Picked]) -> float:
    """`Binding.ppa` of the options picked in all rotations of all questions."""
    return _scores(picked)["ppa"]


def unchanged(picked: Sequence[Picked]) -> float:
    """`Binding.unchanged` of the options picked in all rotations of all questions."""
    return _scores(picked)["unchanged"]


def recall_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The scores of an answer, as `answer_recall` computes them."""
    said, expected = (" ".join(text.split()) for text in (results[0], doc["answer"]))
    return {
        "exact_match": float(exact_match(said, expected)),
        "f1": token_f1(said, expected),
        "fuzzy_match": float(fuzz.ratio(said.lower(), expected.lower()) >= FUZZY_RATIO),
    }


def trap_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the answer to a trap is an invention."""
    return {"inventions": float(not abstains(" ".join(results[0].split())))}


def _scores(picked: Sequence[Picked]) -> dict[str, float]:
    by_question: dict[int, list[str]] = {}
    right: dict[int, str] = {}
    for number, option, word in picked:
        by_question.setdefault(number, []).append(option)
        right[number] = word
    return mcsb_scores([by_question[number] for number in right], [*right.values()])


def _mcsb_rows(questions: Sequence[McsbQuestion]) -> Iterable[dict[str, Any]]:
    for number, question in enumerate(questions):
        for by in range(len(question.options)):
            options = rotated(question.options, by)
            yield {
                "number": number,
                "text": prompts.question(question.description, options, question.labels),
                "labels": [f" {label}" for label in question.labels],
                "options": options,
                "word": question.word,
                "right": options.index(question.word),
            }


def _mcsb_yaml() -> str:
    metrics = "".join(_metric(name, f"!function utils.{name}", "true") for name in ("accuracy", "ppa", "unchanged"))
    return f"""tag: {MCSB}
output_type: multiple_choice
doc_to_text: text
doc_to_choice: labels
doc_to_target: right
process_results: !function utils.mcsb_results
metric_list:
{metrics}"""


def _notes_yaml(traps: bool, new_tokens: int) -> str:
    names = ("inventions",) if traps else ("exact_match", "f1", "fuzzy_match")
    metrics = "".join(_metric(name, "mean", "false" if traps else "true") for name in names)
    return f"""tag: {NOTES}
output_type: generate_until
description: system # the question's system prompt
doc_to_text: question
doc_to_target: answer
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {new_tokens}
process_results: !function utils.{"trap" if traps else "recall"}_results
metric_list:
{metrics}"""


def _metric(name: str, aggregation: str, higher_is_better: str) -> str:
    return f"- {{metric: {name}, aggregation: {aggregation}, higher_is_better: {higher_is_better}}}\n"


def _write(out: Path, name: str, rows: Iterable[Mapping[str, Any]], task: str) -> None:
    file = out / f"{name}.jsonl"
    replace_file(file, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    head = f"""task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {json.dumps(str(file.resolve()))}}}}}
test_split: test
num_fewshot: 0
target_delimiter: ""
metadata: {{version: {VERSION}}}
"""
    replace_file(out / f"{name}.yaml", (head + task).encode())


def _task_name(kind: str, name: str) -> str:
    return f"{kind}_{re.sub(r'[^0-9a-zA-Z]+', '_', name)}"
