"""What a quantiser looks at while it chooses its scales, and what is kept apart to measure the result by.

    data = read_calibration(Path("notes.dlm"), tokenizer, samples=128, seed=0)
    data.blocks            # token ids, all of one length, to calibrate with
    data.held_out_notes    # token ids of rows that are in no block, for perplexities
    print(data)            # "41 rows, 3 blocks of 512 tokens (…); held out: 10 rows of the notes, …"

Rows are those that training reads: a document's pairs, rendered with the chat template, and its prose. To them comes a
share of general text, for a model is asked other things too than its notes. A hash of seed and text decides what is
held out and in which order the rest is used, so the same call gives the same ids, and a new row moves few others.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from dlm_trl.evaluation.perplexity import general_text
from dlm_trl.models.chat import encode, require_template
from dlm_trl.models.tokenize import windows
from dlm_trl.notes import read
from dlm_trl.notes.errors import CalibrationError, ChatTemplateError, UsageError
from dlm_trl.rows.load import load_dlm

LENGTH = 512  # tokens of a block
GENERAL_SHARE = 0.25  # of the tokens to calibrate with
FEWEST_TOKENS = 1024  # where the notes have fewer, general text makes up for it
HELD_OUT_ROWS, MOST_HELD_OUT = 0.2, 256  # of the groups of rows
HELD_OUT_GENERAL = 0.5
GENERAL_WINDOW = 128  # tokens of a held-out piece of general text: many short ones test better than few long ones


@dataclass(frozen=True)
class Calibration:
    """Token ids. `blocks` are all equally long; held-out pieces begin with a token that is context only.

    A row counts as one of the notes' whether the notes are a document or a file of rows; general_tokens are those of
    `blocks` that are not the notes'.
    """

    blocks: list[list[int]]
    held_out_notes: list[list[int]]
    held_out_general: list[list[int]]
    rows: int
    held_out_rows: int
    general_tokens: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.blocks))

    def __str__(self) -> str:
        length = len(self.blocks[0])
        return (
            f"{self.rows} rows, {len(self.blocks)} blocks of {length} tokens ({self.general_tokens} of {self.tokens} "
            f"tokens are general text); held out: {self.held_out_rows} rows of the notes, "
            f"{len(self.held_out_general)} pieces of general text"
        )


class Row(NamedTuple):
    """A text, or a conversation as chat templates take it. Rows of one group tell of the same text."""

    content: str | list[dict[str, str]]
    group: str
    path: Path
    line: int


def read_calibration(
    source: Path, tokenizer: PreTrainedTokenizerBase, samples: int = 128, seed: int = 0, length: int = LENGTH
) -> Calibration:
    """Blocks of `length` tokens, at most `samples`, from the rows of a `.dlm` document or a `.jsonl` file.

    length is at most what the model can read; pieces that are held out are no longer either. A line of the file is an
    object with `messages`, or `prompt` and `completion` (conversations or strings), or `text`, or is a row of a task,
    as the log of an online run has them. Of few rows all are used; where there is but one, none is held out. Raises
    DlmError: what reading the document raises; CalibrationError with the line for a broken row, and for a file without
    rows; ChatTemplateError; UsageError for samples below 1.
    """
    if samples < 1:
        raise UsageError(f"samples is {samples}.", hint="Calibrate with at least one.")
    by_group: dict[str, list[Row]] = {}
    for row in read_rows(source):
        by_group.setdefault(row.group, []).append(row)
    groups = _shuffled(by_group, seed)
    count = min(MOST_HELD_OUT, _share(len(groups), HELD_OUT_ROWS))
    held_out, kept = ([row for group in part for row in by_group[group]] for part in (groups[:count], groups[count:]))

    budget = samples * length
    notes, used = _take((_encode(row, tokenizer) for row in kept), round(budget * (1 - GENERAL_SHARE)) or 1)
    paragraphs = _shuffled(general_text().split("\n\n"), seed)
    apart = _share(len(paragraphs), HELD_OUT_GENERAL)
    wanted = max(round(len(notes) * GENERAL_SHARE / (1 - GENERAL_SHARE)), FEWEST_TOKENS - len(notes))
    general = _text("\n\n".join(paragraphs[apart:]), tokenizer)[: max(0, min(wanted, budget - len(notes)))]

    pieces = [piece for row in held_out for piece in windows(_encode(row, tokenizer), length)]
    ids = notes + general
    length = min(length, len(ids))
    blocks = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    return Calibration(
        blocks=blocks,
        held_out_notes=pieces,
        held_out_general=list(windows(_text("\n\n".join(paragraphs[:apart]), tokenizer), GENERAL_WINDOW)),
        rows=used,
        held_out_rows=len(held_out),
        general_tokens=len(blocks) * length - min(len(notes), len(blocks) * length),
    )


def read_rows(source: Path) -> list[Row]:
    """The rows of a document (weight 0 is left out) or of a JSON-lines file, each text once. Raises DlmError."""
    if source.suffix not in {".dlm", ".jsonl"}:
        raise CalibrationError(
            "Calibration rows come from a .dlm document or a .jsonl file.",
            hint="Give the document that the model was trained on.",
            path=source,
        )
    made = _document_rows(source) if source.suffix == ".dlm" else _file_rows(source)
    rows = list({json.dumps(row.content, sort_keys=True): row for row in made}.values())
    if not rows:
        raise CalibrationError("There is no row to calibrate with.", path=source)
    return rows


def _document_rows(source: Path) -> Iterator[Row]:
    kinds = {section.kind for section in read(source).sections}
    for kind in [kind for kind, section in (("messages", "instruction"), ("prose", "prose")) if section in kinds]:
        for row in load_dlm(source, kind, split="train"):
            if row["weight"] > 0:
                content = row["messages"] if kind == "messages" else row["text"]
                yield Row(content, row["source_group"], Path(row["source_file"]), row["line"])


def _file_rows(source: Path) -> Iterator[Row]:
    if not source.is_file():
        raise CalibrationError("There is no such file.", path=source)
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
                if not isinstance(row, dict):
                    raise TypeError(f"{row!r:.60} is no object")
                if "target" in row and row.get("rejected"):  # a draft that a task refused, in the log of an online run
                    continue
                content = _content(row)
                group = str(row.get("source_group", json.dumps(content, sort_keys=True)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise CalibrationError(
                    f"This line is no row: {_said(error)}.",
                    hint="Each line is an object with messages, or prompt and completion, or text.",
                    path=source,
                    line=number,
                ) from error
            yield Row(content, group, source, number)


def _content(row: Any) -> str | list[dict[str, str]]:
    if "messages" in row:
        return _conversation(row["messages"])
    if "text" in row:
        return _string(row["text"])
    prompt = row["prompt"]
    if "target" in row and not isinstance(prompt, str):  # a row of a task: what the assistant says
        return _conversation([*prompt, {"role": "assistant", "content": row["target"]}])
    completion = row["target" if "target" in row else "completion"]
    if type(prompt) is not type(completion):
        raise TypeError("prompt and completion are not both texts or both messages")
    if isinstance(prompt, str):
        return _string(prompt + completion)
    return _conversation(prompt + completion)


def _conversation(messages: Any) -> list[dict[str, str]]:
    if not (isinstance(messages, list) and messages):
        raise TypeError(f"{messages!r:.60} is not a conversation")
    return [{"role": _string(message["role"]), "content": _string(message["content"])} for message in messages]


def _string(value: Any) -> str:
    if not (isinstance(value, str) and value.strip()):
        raise TypeError(f"{value!r:.60} is not a text")
    value.encode()  # JSON can say half a character, which no tokenizer takes
    return value


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _encode(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if isinstance(row.content, str):
        return _text(row.content, tokenizer)
    try:
        require_template(tokenizer, "The model")
        return encode(tokenizer, row.content)
    except ChatTemplateError as error:
        hint = "Put the chat template that the model was trained with into its folder."
        raise ChatTemplateError(error.message, hint, path=row.path, line=row.line) from error


def _text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """As training reads prose: after the token that begins a text, where there is one."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return begin + tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _take(rows: Iterable[Sequence[int]], tokens: int) -> tuple[list[int], int]:
    """The ids of so many rows that they make up `tokens`, cut there, and how many rows those are."""
    ids: list[int] = []
    used = 0
    for row in rows:
        ids += row
        used += 1
        if len(ids) >= tokens:
            break
    return ids[:tokens], used


def _shuffled(texts: Iterable[str], seed: int) -> list[str]:
    return sorted(texts, key=lambda text: (blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest(), text))


def _share(count: int, share: float) -> int:
    """So many of `count` are held out: at least one, but not the only one."""
    return min(count - 1, max(1, round(count * share)))
