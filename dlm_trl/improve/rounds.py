"""What is recorded of each round: `rounds.json` in the folder of the rounds.

done = read_rounds(folder)
write_rounds(folder, [*done, current])
print(table(done))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dlm_trl.evaluation.numbers import number
from dlm_trl.evaluation.report import markdown_table
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.files import replace_file

FILE = "rounds.json"


@dataclass(frozen=True, slots=True)
class Round:
    """One round. score: None until it's trained; F1 from 0 to 1, as are groups (by group of questions).

    sentences: how many were asked about. pairs: ids of the sections that were added; views: texts of the prose views.
    missed: the sentences whose questions are still missed afterwards. replies: how many the ledger had when the asking
    began; spent: prompt and completion tokens of the requests since.
    """

    number: int
    folder: str
    sentences: int = 0
    pairs: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    score: float | None = None
    groups: dict[str, float] = field(default_factory=dict)
    inventions: float | None = None
    perplexity: float | None = None
    missed: tuple[str, ...] = ()
    taken_back: bool = False
    seconds: float = 0.0
    replies: int | None = None
    spent: tuple[int, int] = (0, 0)


def read_rounds(folder: Path) -> list[Round]:
    """The rounds so far, none without a record. Raises DlmError (UsageError) for a damaged one."""
    file = folder / FILE
    if not file.exists():
        return []
    try:
        return TypeAdapter(list[Round]).validate_json(file.read_bytes())
    except ValidationError as error:
        raise UsageError(
            f"It isn't a record of rounds: {error.errors()[0]['msg']}.",
            hint="Delete it, or choose another --out.",
            path=file,
        ) from None


def write_rounds(folder: Path, done: Sequence[Round]) -> None:
    """Replace the record. Raises DlmError (DlmWriteError)."""
    text = json.dumps([asdict(each) for each in done], ensure_ascii=False, indent=1)
    replace_file(folder / FILE, f"{text}\n".encode())


def table(rounds: Sequence[Round]) -> str:
    """The rounds as a Markdown table."""
    groups = list(dict.fromkeys(group for each in rounds for group in each.groups))
    head = ["round", "asked about", "pairs", "views", "score", *groups, "inventions", "perplexity", "missed"]
    rows = [
        [
            f"{each.number}{' (taken back)' if each.taken_back else ''}",
            *map(str, (each.sentences, len(each.pairs), len(each.views))),
            number(each.score, "share"),
            *(number(each.groups.get(group), "share") for group in groups),
            number(each.inventions, "share"),
            number(each.perplexity, "per token"),
            str(len(each.missed)),
        ]
        for each in rounds
    ]
    return markdown_table(head, rows, numbers_from=1)
