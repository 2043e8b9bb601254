"""The preference rows of a run: `rows = read_preferences(document, document, None, spec, 0.1)`.

A row has `prompt`, `chosen` and `rejected` as conversations, and where it comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from datasets import Dataset, concatenate_datasets
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from dlm_trl.evaluation.answers import normalize
from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.models.chat import split_answers
from dlm_trl.models.control_tokens import names_control_token
from dlm_trl.models.tokenize import few, places, preflight
from dlm_trl.notes import Document
from dlm_trl.notes.errors import NoRowsError, PreflightError
from dlm_trl.notes.escape import redact
from dlm_trl.rows.parsed import parsed_rows
from dlm_trl.rows.split import split

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PreferenceRows:
    """The rows to train on, and those to measure only, None if there are none.

    authors: rows to train on by author: "human", or the model whose answers a judge ranked.
    """

    train: Dataset
    held_out: Dataset | None
    authors: Mapping[str, int]

    def groups(self) -> dict[str, Dataset]:
        """The rows to measure, by name."""
        return {"trained": self.train, **({"held-out": self.held_out} if self.held_out is not None else {})}

    def provenance(self) -> dict[str, int]:
        """As `Rows.provenance`."""
        return dict(self.authors)


def read_preferences(
    document: Document, asked: Document | None, adapter_name: str | None, spec: EvaluationSpec, fraction: float
) -> PreferenceRows:
    """The document's preference rows, with this fraction of them held out.

    asked, spec: the document whose pairs measure recall, and which of them are held out; a preference about the same
    question is held out, too, because training on it would teach an answer that recall is measured with. Raises
    DlmError: PreferenceParseError for a malformed section, NoRowsError without rows to train on, PreflightError for a
    row whose answers are the same.
    """
    every = parsed_rows(document, "preference", adapter_name)
    if every is None:
        raise NoRowsError(
            "Nothing to train on: the document has no preference sections"
            f"{f' for adapter {adapter_name!r}' if adapter_name else ''}.",
            hint="Write some (`::preference::` with `### Prompt`, `### Chosen`, `### Rejected`), or have a teacher "
            "write them: dlm-trl synth preference.",
            path=document.path,
        )
    texts = [[conversation[-1]["content"].split() for conversation in every[side]] for side in SIDES]
    if same := [place for place, chosen, rejected in zip(places(every[:]), *texts, strict=True) if chosen == rejected]:
        raise PreflightError(
            f"{few(same)}: chosen and rejected are the same, which teaches no preference. Change one, or remove both."
        )
    parts = split(every, fraction, spec.seed, spec.split_method)
    _, held_out_pairs = spec.pairs(asked)
    measured = {normalize(prompt[-1]["content"]) for prompt in (held_out_pairs["prompt"] if held_out_pairs else ())}
    is_asked = [normalize(prompt[-1]["content"]) in measured for prompt in parts["train"]["prompt"]]
    train = parts["train"].select([i for i, held in enumerate(is_asked) if not held])
    more = parts["train"].select([i for i, held in enumerate(is_asked) if held])
    held_out = concatenate_datasets([part for part in (parts["validation"], more) if len(part)] or [more])
    if not len(train):
        raise NoRowsError(
            f"Nothing to train on: all {len(every)} preference rows are held out.",
            hint="Write more of them, or lower validation_fraction.",
            path=document.path,
        )
    return PreferenceRows(train, held_out if len(held_out) else None, _authors(document, train))


def tokenization_problems(
    rows: PreferenceRows, tokenizer: PreTrainedTokenizerBase, base: PretrainedConfig
) -> list[str]:
    """What is wrong with how the chat template renders the rows, as `models.tokenize.preflight`, and rows that the
    trainer, which tokenizes them itself, would read differently: those that spell a control token.
    """
    problems = []
    for part in rows.groups().values():
        for side in SIDES:
            problems += preflight(tokenizer, base, as_pairs(part, side))
        spelled = [
            place
            for place, *texts in zip(places(part[:]), part["prompt"], *(part[side] for side in SIDES), strict=True)
            if any(names_control_token(tokenizer, turn["content"]) for text in texts for turn in text)
        ]
        if spelled:
            problems.append(
                f"{few(spelled)}: DPOTrainer would read the name of a control token as the token. Write it "
                "differently, such as with spaces in it."
            )
    return list(dict.fromkeys(problems))


def fitting(
    rows: PreferenceRows, document: Document, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[PreferenceRows, list[str]]:
    """The rows that fit max_length with both answers, and a line about those that don't.

    Raises NoRowsError if none to train on is left. The trainer would cut them off.
    """
    kept, long = {}, []
    for name, part in rows.groups().items():
        both = [_lengths(as_pairs(part, side), tokenizer) for side in SIDES]
        lengths = [max(pair) for pair in zip(*both, strict=True)]
        long += [f"{p} ({n} tokens)" for p, n in zip(places(part[:]), lengths, strict=True) if n > max_length]
        kept[name] = part.select([i for i, length in enumerate(lengths) if length <= max_length])
    if not len(kept["trained"]):
        raise NoRowsError(
            f"No preference row fits: dropped as too long: {few(long)}.",
            hint=f"max_length is {max_length}: raise it.",
            path=document.path,
        )
    held_out = kept.get("held-out")
    fit = PreferenceRows(kept["trained"], held_out or None, _authors(document, kept["trained"]))
    return fit, [f"Dropped as too long for max_length {max_length}: {few(long)}."] if long else []


def as_pairs(rows: Dataset, side: str) -> Dataset:
    """The rows as pairs of prompt and completion, with the chosen or the rejected answer."""
    return rows.select_columns(["prompt", side, "source_file", "line"]).rename_column(side, "completion")


def _lengths(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    conversations = [prompt + answer for prompt, answer in zip(pairs["prompt"], pairs["completion"], strict=True)]
    return [len(ids) for ids, _ in split_answers(tokenizer, conversations, places(pairs[:]))]


def _authors(document: Document, rows: Dataset) -> dict[str, int]:
    judges = {s.section_id: s.provenance.get("judge_name") for s in document.sections if s.kind == "preference"}
    names = (judges.get(section_id) for section_id in rows["section_id"])
    return dict(Counter(f"judged by {redact(str(name))}" if name else "human" for name in names))
