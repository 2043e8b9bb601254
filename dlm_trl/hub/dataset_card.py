"""The dataset card of a document's rows: what they are, which are synthetic and by whom, the licence, how to load."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple

from huggingface_hub import DatasetCardData

from dlm_trl.evaluation.report import markdown_table
from dlm_trl.evaluation.training_card import python_block
from dlm_trl.notes import Document
from dlm_trl.notes.escape import code, markdown, redact, without_folders
from dlm_trl.online.dataset_card import size_category

NO_LICENCE = "# license: fill it in; the terms of the teachers apply to the text they generated"
MEANINGS = {
    "sft": "question/answer pairs: conversational `prompt` and `completion`",
    "preference": "conversational `prompt`, `chosen` and `rejected`",
    "prose": "the prose of the document, as `text`",
    "views": "sentences that say the same as the prose in other words, as `text`; never part of the document",
}
COLUMNS = """| column | meaning |
|---|---|
| `source_file`, `line` | the document, and the line where the row's text starts |
| `section_id`, `source_group` | the section; rows about the same text share a group: keep them on one side of a split |
| `auto_synth` | whether a teacher wrote the row |
| `teacher`, `strategy`, `source_section_id` | of a synthesised row: who wrote it, how, and from which prose |
| `adapter`, `tags`, `weight` | for training: the adapter, tags, and the number of copies |"""


class RowCounts(NamedTuple):
    """How many rows a kind has; teachers, strategies: of the synthesised ones, most frequent first."""

    rows: int
    teachers: Mapping[str, int]
    strategies: Mapping[str, int]

    @property
    def synthetic(self) -> int:
        """Rows that a teacher wrote."""
        return sum(self.teachers.values())


def dataset_card(
    document: Document, counts: Mapping[str, RowCounts], files: Mapping[str, str], repo_id: str, license: str | None
) -> str:
    """The card. counts, files: by kind of rows; the first kind is the default of `load_dataset`."""
    total, synthetic = (sum(values) for values in zip(*((c.rows, c.synthetic) for c in counts.values()), strict=True))
    name = repo_id.rpartition("/")[2]
    parts = [
        _header(name, total, synthetic, files, license),
        f"# {markdown(name)}",
        f"The rows of the document {code(document.frontmatter.dlm_id)}, for supervised fine-tuning: {total:,} rows, "
        f"{synthetic:,} of them synthetic ({synthetic / total:.0%}). {_licence(license, synthetic)}",
        "## Rows",
        _kinds(counts),
        "## What is synthetic",
        *_synthetic(counts),
        *_judged(document),
        "## Load it",
        python_block(
            [
                "from datasets import load_dataset",
                "",
                *(f'load_dataset({json.dumps(repo_id)}, "{kind}", split="train")' for kind in counts),
            ]
        ),
        "TRL's trainers take the rows as they are.",
        "## Columns",
        f"Besides the columns of its kind, each row has:\n\n{COLUMNS}",
        f"Written with dlm-trl {version('dlm-trl')}.",
    ]
    return "\n\n".join(parts) + "\n"


def _header(name: str, rows: int, synthetic: int, files: Mapping[str, str], license: str | None) -> str:
    data = DatasetCardData(
        license=license,
        pretty_name=name,
        size_categories=[size_category(rows)],
        task_categories=["text-generation", "question-answering"],
        tags=["dlm", "trl", *(["synthetic"] if synthetic else [])],
        configs=[
            {
                "config_name": kind,
                "data_files": [{"split": "train", "path": file}],
                **({"default": True} if first else {}),
            }
            for kind, file in files.items()
            for first in [kind == next(iter(files))]
        ],
    )
    return "\n".join(["---", *([] if license else [NO_LICENCE]), data.to_yaml(), "---"])


def _licence(license: str | None, synthetic: int) -> str:
    teachers = " The terms of the teachers apply to the text that they generated." if synthetic else ""
    return (f"Licence: {markdown(license)}." if license else "**Licence: fill it in.**") + teachers


def _kinds(counts: Mapping[str, RowCounts]) -> str:
    rows = [
        (
            kind,
            MEANINGS[kind],
            f"{c.rows:,}",
            f"{c.rows - c.synthetic:,}",
            f"{c.synthetic:,}",
            f"{c.synthetic / c.rows:.0%}",
        )
        for kind, c in counts.items()
    ]
    head = "| kind | what | rows | by people | synthetic | share |\n|---|---|---:|---:|---:|---:|"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _judged(document: Document) -> list[str]:
    judges = Counter(str(section.provenance["judge_name"]) for section in document.sections if section.auto_mined)
    named = ", ".join(f"{judge} ({count:,})" for judge, count in judges.most_common())
    note = (
        "A model wrote the answers of these preference sections, by the judge that ranked them; the document doesn't "
    )
    return (
        [f"{note}say which model, so they aren't counted above: {markdown(redact(without_folders(named)))}."]
        if judges
        else []
    )


def _synthetic(counts: Mapping[str, RowCounts]) -> list[str]:
    total = sum(c.rows for c in counts.values())
    rows = [
        (teacher, kind, f"{count:,}", f"{count / total:.1%}")
        for kind, c in counts.items()
        for teacher, count in c.teachers.items()
    ]
    if not rows:
        return ["Nothing: people wrote all rows."]
    ways = {f"{kind}: {name} ({count:,})": None for kind, c in counts.items() for name, count in c.strategies.items()}
    return [
        "Rows with `auto_synth` are synthetic: `teacher` wrote them from the document's prose.",
        markdown_table(("teacher", "kind", "rows", "share of all"), rows, numbers_from=2),
        f"How they were made, by `strategy`: {markdown(', '.join(ways))}.",
    ]
