"""Read a questions file: JSON lines of questions to measure with, which no run trains on.

    {"question": "What is a boule?", "reworded": "What shape does a boule have?", "answer": "A round loaf."}
    {"kind": "held-out", "question": "What is stale bread good for?", "answer": "Toast, crumbs and soup."}
    {"kind": "reverse", "question": "What is a round loaf called?", "answer": "A boule."}
    {"kind": "trap", "question": "How much sugar does the dough want?"}

- reworded, the default: a pair's question in other words, with the pair's answer; `question` is the pair's, optional
- held-out: about a fact of the prose that no pair asks about
- reverse: asked from the other side, so that the answer is what the sentence of the prose is about
- trap: what the notes don't say; the right answer is to say so
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from dlm_trl.notes.errors import QuestionsError

KEYS = {  # those a kind needs
    "reworded": ("reworded", "answer"),
    "held-out": ("question", "answer"),
    "reverse": ("question", "answer"),
    "trap": ("question",),
}
OPTIONAL = {"reworded": ("question",)}


class FileQuestion(NamedTuple):
    """One line. kind: one of KEYS. answer: "" for a trap. pair: what a reworded question rewords, if given."""

    kind: str
    question: str
    answer: str
    pair: str | None
    line: int


def read_questions(path: str) -> list[FileQuestion]:
    """All questions of the file. Raises DlmError (QuestionsError) with the line of an invalid one."""
    file = Path(path)
    if not file.is_file():
        raise QuestionsError("The questions file doesn't exist.", hint="Check the path.", path=file)
    try:
        with file.open(encoding="utf-8") as stream:
            lines = list(stream)
    except UnicodeDecodeError as error:
        raise QuestionsError("The questions file isn't UTF-8.", hint="Save it as UTF-8.", path=file) from error
    questions = []
    for number, line in enumerate(lines, start=1):
        try:
            questions.append(_question(json.loads(line), number))
        except json.JSONDecodeError as error:
            hint = "Each line is a JSON object, such as " + '{"kind": "trap", "question": "…"}.'
            raise QuestionsError("Invalid question: not JSON.", hint=hint, path=file, line=number) from error
        except ValueError as error:
            raise QuestionsError(f"Invalid question: {error}.", hint=_HINT, path=file, line=number) from error
    return questions


_HINT = (
    "A line has reworded and answer; or kind held-out or reverse with question and answer; or kind trap with question."
)


def _question(row: Any, line: int) -> FileQuestion:
    """The question of one line. Raises ValueError with what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    kind = row.get("kind", "reworded")
    if not isinstance(kind, str) or kind not in KEYS:
        raise ValueError(f"unknown kind {kind!r}")
    for name in KEYS[kind]:
        if name not in row:
            raise ValueError(f"{name} is missing for kind {kind}")
    for name, value in row.items():
        if name != "kind" and name not in (*KEYS[kind], *OPTIONAL.get(kind, ())):
            raise ValueError(f"{name!r} doesn't belong to kind {kind}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} must be a text that isn't empty")
    asked = row["reworded"] if kind == "reworded" else row["question"]
    return FileQuestion(kind, asked, row.get("answer", ""), row.get("question") if kind == "reworded" else None, line)
