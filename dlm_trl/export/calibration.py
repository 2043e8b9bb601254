"""Text that a quantiser calibrates its scales on, and text held out to measure the result.

    data = read_calibration(Path("notes.dlm"), tokenizer, samples=128, seed=0)
    data.blocks            # token ids to calibrate with, all of one length
    data.held_out_notes    # token ids of rows that are in no block, for measuring
    print(data)            # "41 rows, 3 blocks of 512 tokens (…); held out: 10 rows of the notes, …"

The rows are those of training: a document's pairs, rendered with the chat template, and its prose. A share of general
text is added, since people also ask a model about other things. A hash of seed and text decides which rows are held out
and in which order the others are used: the same call gives the same ids, and a new row moves few others.
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
from dlm_trl.models.control_tokens import encode_text
from dlm_trl.models.tokenize import windows
from dlm_trl.notes import read
from dlm_trl.notes.errors import CalibrationError, ChatTemplateError, UsageError
from dlm_trl.rows.load import load_dlm

LENGTH = 512  # tokens of a block
GENERAL_SHARE = 0.25  # of the calibration tokens
MIN_TOKENS = 1024  # with fewer tokens in the notes, general text fills up
HELD_OUT_ROWS, MAX_HELD_OUT = 0.2, 256  # share and number of the groups of rows
HELD_OUT_GENERAL = 0.5
GENERAL_WINDOW = 128  # tokens of a held-out general text: many short ones test better than few long ones


@dataclass(frozen=True)
class Calibration:
    """Token ids. All `blocks` have the same length; the first token of a held-out text is only context.

    rows and held_out_rows count the rows of the document or file. general_tokens counts the tokens of `blocks` that
    come from general text.
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
            f"{len(self.held_out_general)} general texts"
        )


class Row(NamedTuple):
    """A text, or a conversation as chat templates take it. Rows of one group come from the same text."""

    content: str | list[dict[str, str]]
    group: str
    path: Path
    line: int


def read_calibration(
    source: Path, tokenizer: PreTrainedTokenizerBase, samples: int = 128, seed: int = 0, length: int = LENGTH
) -> Calibration:
    """At most `samples` blocks of `length` tokens, from the rows of a `.dlm` document or a `.jsonl` file.

    length: at most the model's context; held-out texts aren't longer either. Each line of a file is an object with
    `messages`, or `prompt` and `completion` (both conversations or both strings), or `text`, or a task's row from the
    log of an online run. With few rows all are used, and a single one isn't held out.

    Raises DlmError: what reading the document raises; CalibrationError with the line of an invalid row, and for a file
    without rows; ChatTemplateError; UsageError for samples below 1.
    """
    if samples < 1:
        raise UsageError(f"samples is {samples}.", hint="Use at least 1.")
    by_group: dict[str, list[Row]] = {}
    for row in read_rows(source):
        by_group.setdefault(row.group, []).append(row)
    groups = _shuffled(by_group, seed)
    count = min(MAX_HELD_OUT, _held_out_count(len(groups), HELD_OUT_ROWS))
    held_out, kept = ([row for group in part for row in by_group[group]] for part in (groups[:count], groups[count:]))

    budget = samples * length
    notes, used = _take((_encode(row, tokenizer) for row in kept), round(budget * (1 - GENERAL_SHARE)) or 1)
    paragraphs = _shuffled(general_text().split("\n\n"), seed)
    held_out_paragraphs = _held_out_count(len(paragraphs), HELD_OUT_GENERAL)
    wanted = max(round(len(notes) * GENERAL_SHARE / (1 - GENERAL_SHARE)), MIN_TOKENS - len(notes))
    general = _encode_text("\n\n".join(paragraphs[held_out_paragraphs:]), tokenizer)
    general = general[: max(0, min(wanted, budget - len(notes)))]

    ids = notes + general
    length_used = min(length, len(ids))
    blocks = [ids[start : start + length_used] for start in range(0, len(ids) - length_used + 1, length_used)]
    held_out_general = _encode_text("\n\n".join(paragraphs[:held_out_paragraphs]), tokenizer)
    return Calibration(
        blocks=blocks,
        held_out_notes=[text for row in held_out for text in windows(_encode(row, tokenizer), length)],
        held_out_general=list(windows(held_out_general, GENERAL_WINDOW)),
        rows=used,
        held_out_rows=len(held_out),
        general_tokens=len(blocks) * length_used - min(len(notes), len(blocks) * length_used),
    )


def read_rows(source: Path) -> list[Row]:
    """The distinct rows of a document (except those of weight 0) or of a JSON-lines file. Raises DlmError."""
    if source.suffix not in {".dlm", ".jsonl"}:
        raise CalibrationError(
            "Calibration rows come from a .dlm document or a .jsonl file.",
            hint="Give the document that the model was trained on.",
            path=source,
        )
    every = _document_rows(source) if source.suffix == ".dlm" else _file_rows(source)
    rows = list({json.dumps(row.content, sort_keys=True): row for row in every}.values())
    if not rows:
        raise CalibrationError("There are no rows to calibrate with.", hint="Give another document.", path=source)
    return rows


def _document_rows(source: Path) -> Iterator[Row]:
    sections = {section.kind for section in read(source).sections}
    for kind in [kind for kind, section in (("messages", "instruction"), ("prose", "prose")) if section in sections]:
        for row in load_dlm(source, kind, split="train"):
            if row["weight"] > 0:
                content = row["messages"] if kind == "messages" else row["text"]
                yield Row(content, row["source_group"], Path(row["source_file"]), row["line"])


def _file_rows(source: Path) -> Iterator[Row]:
    if not source.is_file():
        raise CalibrationError("The file doesn't exist.", hint="Check the path.", path=source)
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
                if not isinstance(row, dict):
                    raise TypeError(f"{row!r:.60} is not an object")
                if "target" in row and row.get("rejected"):  # the log of an online run also has rejected drafts
                    continue
                content = _content(row)
                group = str(row.get("source_group", json.dumps(content, sort_keys=True)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise CalibrationError(
                    f"Invalid row: {reason}.",
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
    if "target" in row and not isinstance(prompt, str):  # a task's row: the target is the assistant's answer
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
    value.encode()  # raises for a lone surrogate, which JSON allows and tokenizers reject
    return value


def _encode(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if isinstance(row.content, str):
        return _encode_text(row.content, tokenizer)
    try:
        require_template(tokenizer, "The model")
        return encode(tokenizer, row.content)
    except ChatTemplateError as error:
        hint = "Copy the chat template that the model was trained with into its folder."
        raise ChatTemplateError(error.message, hint, path=row.path, line=row.line) from error


def _encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Like prose in training: after the BOS token, if the tokenizer has one."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return begin + encode_text(tokenizer, text)


def _take(rows: Iterable[Sequence[int]], tokens: int) -> tuple[list[int], int]:
    """The first `tokens` ids of the rows, and the number of rows used."""
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


def _held_out_count(count: int, share: float) -> int:
    """How many of `count` to hold out: at least one, unless it's the only one."""
    return min(count - 1, max(1, round(count * share)))
