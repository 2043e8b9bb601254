"""Rows become `input_ids` and `labels` for training, and `preflight` says beforehand what would go wrong.

    problems = preflight(tokenizer, model.config, rows)
    tokens, report = tokenize(rows, tokenizer, max_length=1024)

Pairs go through the chat template once; the loss is on all that the template puts after the prompt: the answer and
its end of turn, with the same ids and labels that the stock SFTTrainer makes of such a row. Prose is cut into windows
in which every token, and the end of the text, is predicted exactly once. Masks go by position, never by token id, so
it does not matter which tokens the tokenizer uses for padding or the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value

from dlm_trl.models.chat import require_template, split_answers
from dlm_trl.notes.errors import DlmError, NoRowsError, TokenizerError, UsageError

IGNORED = -100
SHOWN = 5
"""How many rows a report or a problem names before it says how many more there are."""

_TEMPLATE = "Set chat_template_path to a .jinja file or to a model that has one, or train on prose only."
# Names that vocabularies give to tokens which no text ever produces.
_SPARE = re.compile(r"pad|reserved|unused|extra", re.IGNORECASE)
_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        "length": Value("int32"),
        "trained": Value("int32"),
        "where": Value("string"),
    }
)


@dataclass(frozen=True)
class TokenReport:
    """What became of the rows. Tokens are counted without padding; `trained_tokens` are those in the loss."""

    rows: int
    sequences: int
    tokens: int
    trained_tokens: int
    too_long: tuple[str, ...]
    """The pairs that were left out, as `file:line (n tokens)`."""

    def __str__(self) -> str:
        text = f"{self.rows} rows → {self.sequences} sequences, {self.tokens} tokens, {self.trained_tokens} in the loss"
        if self.too_long:
            text += f"; left out as too long: {_few(self.too_long)}"
        return text


def tokenize(
    dataset: Dataset, tokenizer: Any, max_length: int, num_proc: int | None = None
) -> tuple[Dataset, TokenReport]:
    """The rows as sequences of at most max_length tokens, with columns `input_ids`, `labels` and `length`.

    dataset has `prompt` and `completion`, or `messages` that end with the assistant's turn, or `text`. A pair longer
    than max_length is left out and reported, never cut; `text` becomes as many windows as it needs. labels are the
    ids of the tokens to predict and -100 elsewhere, not shifted. Raises DlmError where the tokenizer has no chat
    template for conversations, where the template renders a prompt differently once the answer follows, and where
    nothing is left to train on.
    """
    conversational = is_conversational(dataset)
    if conversational:
        require_template(tokenizer, hint=_TEMPLATE)
    sequences = dataset.map(
        _encode_pairs if conversational else _encode_texts,
        batched=True,
        fn_kwargs={"tokenizer": tokenizer} if conversational else {"tokenizer": tokenizer, "max_length": max_length},
        remove_columns=dataset.column_names,
        features=_FEATURES,
        num_proc=num_proc,
        # The cache does not notice that this module has changed.
        load_from_cache_file=False,
        desc="Tokenizing",
    )
    counts = sequences.select_columns(["length", "trained"]).with_format("numpy")[:]
    fits = counts["length"] <= max_length
    kept = sequences.select(fits.nonzero()[0])
    long = sequences.select((~fits).nonzero()[0]).select_columns(["where", "length"])
    report = TokenReport(
        rows=len(dataset),
        sequences=len(kept),
        tokens=int(counts["length"][fits].sum()),
        trained_tokens=int(counts["trained"][fits].sum()),
        too_long=tuple(f"{row['where']} ({row['length']} tokens)" for row in long),
    )
    if not report.trained_tokens:
        raise NoRowsError(
            f"No token is left in the loss: {report}.",
            hint=f"max_length is {max_length}; raise it, or check that the rows have answers.",
        )
    return kept.remove_columns(["trained", "where"]), report


def is_conversational(dataset: Dataset) -> bool:
    """Whether the rows are conversations rather than plain text; raises DlmError where they are neither."""
    columns = set(dataset.column_names)
    if {"prompt", "completion"} <= columns or "messages" in columns:
        return True
    if "text" in columns:
        return False
    raise UsageError(
        f"The rows have columns {', '.join(sorted(columns))}.",
        hint="Rows to train on have prompt and completion, or messages, or text.",
    )


def pad_token(tokenizer: Any) -> tuple[str, str | None]:
    """A token to pad with: the tokenizer's own, else a spare one of its vocabulary, else the end of text; and a note.

    The tokenizer stays as it is. Raises DlmError where there is not even an end of text.
    """
    if tokenizer.pad_token is not None:
        return tokenizer.pad_token, None
    # Added tokens are cut out of the text before anything is merged, so no prose turns into them by accident.
    spare = sorted(token for token in tokenizer.get_added_vocab() if _SPARE.search(token))
    if spare:
        return spare[0], f"The tokenizer has no pad token; padding with its spare token {spare[0]!r}."
    if tokenizer.eos_token is None:
        raise TokenizerError("The tokenizer has no pad token, no spare token and no end of text.")
    return tokenizer.eos_token, (
        f"The tokenizer has no pad token; padding with its end of text {tokenizer.eos_token!r}. Padding is masked by "
        "position, so real ends of text stay in the loss."
    )


def preflight(tokenizer: Any, model_config: Any, dataset: Dataset, sample: int = 256) -> list[str]:
    """What would go wrong in training on these rows, each with what to do; empty when nothing would.

    Looks at the tokenizer, the model's configuration, and the first `sample` rows, tokenised whatever their length.
    """
    problems = []
    config = model_config.get_text_config()
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        problems.append(
            f"The tokenizer has token ids up to {highest}, but the model's vocabulary has {config.vocab_size}: they "
            "belong to different models. Load both from the same place, or resize the model's embeddings."
        )
    try:
        rows = dataset.select(range(min(sample, len(dataset))))
        if not is_conversational(dataset):
            tokenize(rows, tokenizer, max_length=1024)
            return problems
        require_template(tokenizer, hint=_TEMPLATE)
        encoded = _encode_pairs(rows[:], tokenizer)
    except DlmError as error:
        return [*problems, str(error)]
    stops = {tokenizer.eos_token_id, *_as_list(config.eos_token_id)} - {None}
    silent, endless = [], []
    for labels, where in zip(encoded["labels"], encoded["where"], strict=True):
        trained = [label for label in labels if label != IGNORED]
        if not trained:
            silent.append(where)
        elif not stops & set(trained):
            endless.append(where)
    if silent:
        problems.append(f"No token is in the loss for {_few(silent)}. Check that the template renders the answer.")
    if endless:
        ends = ", ".join(sorted(map(repr, tokenizer.convert_ids_to_tokens(sorted(stops))))) or "none is set"
        problems.append(
            f"No end of turn ({ends}) is in the loss for {_few(endless)}, so the model would not learn to stop. End "
            "the assistant's turn in the chat template with the tokenizer's eos_token."
        )
    return problems


def _encode_pairs(batch: Mapping[str, Sequence[Any]], tokenizer: Any) -> dict[str, list[Any]]:
    conversations = (
        list(batch["messages"])
        if "messages" in batch
        else [prompt + answer for prompt, answer in zip(batch["prompt"], batch["completion"], strict=True)]
    )
    places = _places(batch)
    out: dict[str, list[Any]] = {column: [] for column in _FEATURES}
    for (whole, start), where in zip(split_answers(tokenizer, conversations, places), places, strict=True):
        _add(out, whole, [IGNORED] * start + whole[start:], where)
    return out


def _encode_texts(batch: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
    eos = tokenizer.eos_token_id
    start = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise TokenizerError(
            "The tokenizer has neither a token for the begin of a text nor one for its end.",
            hint="Set bos_token or eos_token.",
        )
    out: dict[str, list[Any]] = {column: [] for column in _FEATURES}
    texts = tokenizer(list(batch["text"]), add_special_tokens=False, verbose=False)["input_ids"]
    for text, where in zip(texts, _places(batch), strict=True):
        for window in windows([start, *text, *_as_list(eos)], max_length):
            _add(out, window, [IGNORED, *window[1:]], where)
    return out


def windows(ids: Sequence[int], max_length: int) -> Iterator[list[int]]:
    """ids in pieces of at most max_length, so that each id but the very first is once not the first of a piece.

    What stands first in a window has nothing before it that could predict it. So each window begins with the last
    token of the one before, as context without a loss.
    """
    if max_length < 2:
        raise UsageError(f"max_length is {max_length}.", hint="A window needs two tokens.")
    for begin in range(0, len(ids) - 1, max_length - 1):
        yield list(ids[begin : begin + max_length])


def _add(out: dict[str, list[Any]], ids: list[int], labels: list[int], where: str) -> None:
    row = {"input_ids": ids, "labels": labels, "length": len(ids), "where": where}
    row["trained"] = sum(label != IGNORED for label in labels)
    for column, value in row.items():
        out[column].append(value)


def _places(batch: Mapping[str, Sequence[Any]]) -> list[str]:
    """Where each row is from; rows that were not made by us are called by their number."""
    count = len(next(iter(batch.values())))
    if "source_file" not in batch:
        return [f"row {index}" for index in range(count)]
    return [f"{file}:{line}" for file, line in zip(batch["source_file"], batch["line"], strict=True)]


def _as_list(value: Any) -> list[Any]:
    """A configuration's value that may be missing, one or several."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
