"""Tokenise rows for training: `tokenize` gives `input_ids` and `labels`, `preflight` finds problems beforehand.

    problems = preflight(tokenizer, model.config, rows)
    tokens, report = tokenize(rows, tokenizer, max_length=1024)

Pairs go through the chat template. The loss covers everything the template puts after the prompt (the answer and the
end of its turn), with the same ids and labels as in the stock SFTTrainer. Prose is cut into windows in which every
token, and the end of the text, is predicted exactly once. Unlike in the stock trainer, text that spells a control token
stays text (see `control_tokens`). Masks go by position, never by token id, so padding and EOS may be the same token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, List, Value

from dlm_trl.models.chat import ONLY_PARTS, missing_text, require_template, split_answers, takes_only_parts
from dlm_trl.models.control_tokens import encode_texts
from dlm_trl.notes.errors import DlmError, NoRowsError, TokenizerError, UsageError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

IGNORED = -100
SHOWN = 5
"""How many rows a message lists before "and N more"."""

_TEMPLATE = "Set chat_template_path to a Jinja file or to a model with a chat template, or train on prose only."
_CHANGED = "Write it without what the template reacts to, or set chat_template_path to one that renders it as it is."
_PROSE_ROWS = 256  # that are enough to see what is wrong with the tokenizer
_QUOTED = 60  # characters of a text that a message shows
# How vocabularies name tokens that no text produces.
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
    """What the rows became. tokens: without padding. trained_tokens: those in the loss."""

    rows: int
    sequences: int
    tokens: int
    trained_tokens: int
    too_long: tuple[str, ...]
    """The pairs that were dropped, as `file:line (n tokens)`."""

    def __str__(self) -> str:
        text = f"{self.rows} rows → {self.sequences} sequences, {self.tokens} tokens, {self.trained_tokens} in the loss"
        if self.too_long:
            text += f"; dropped as too long: {few(self.too_long)}"
        return text


def tokenize(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, num_proc: int | None = None
) -> tuple[Dataset, TokenReport]:
    """The rows as sequences of at most max_length tokens, with columns `input_ids`, `labels` and `length`.

    dataset: has `prompt` and `completion`, or `messages` that end with the assistant's turn, or `text`. A pair longer
    than max_length is dropped and reported, never truncated; a text is split into windows. labels: the token ids to
    predict, -100 elsewhere, not shifted. Raises DlmError: UsageError for other columns, ChatTemplateError if the chat
    template is missing or renders a prompt differently once it is answered, NoRowsError if nothing is left to train on.
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
        # The cache key doesn't cover the code of this module.
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
            f"No tokens are left in the loss: {report}.",
            hint=f"max_length is {max_length}: raise it, or check that the rows have answers.",
        )
    return kept.remove_columns(["trained", "where"]), report


def is_conversational(dataset: Dataset) -> bool:
    """Whether the rows are conversations rather than plain text. Raises DlmError (UsageError) if they are neither."""
    columns = set(dataset.column_names)
    if {"prompt", "completion"} <= columns or "messages" in columns:
        return True
    if "text" in columns:
        return False
    raise UsageError(
        f"Can't train on rows with the columns {', '.join(sorted(columns))}.",
        hint="They need prompt and completion, or messages, or text.",
    )


def pad_token(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """A token to pad with (the pad token, else a spare token of the vocabulary, else EOS), and a note unless the first.

    The tokenizer isn't changed. Raises DlmError (TokenizerError) without any of these.
    """
    if tokenizer.pad_token is not None:
        return str(tokenizer.pad_token), None
    # Added tokens are split off before tokenisation, so ordinary text never produces them.
    spare = sorted(token for token in tokenizer.get_added_vocab() if _SPARE.search(token))
    if spare:
        return spare[0], f"The tokenizer has no pad token; padding with its spare token {spare[0]!r}."
    if tokenizer.eos_token is None:
        raise TokenizerError("The tokenizer has no pad, spare or EOS token.", hint="Set pad_token or eos_token.")
    return str(tokenizer.eos_token), (
        f"The tokenizer has no pad token; padding with its EOS token {tokenizer.eos_token!r}. Padding is masked by "
        "position, so real EOS tokens stay in the loss."
    )


def preflight(tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig, dataset: Dataset) -> list[str]:
    """Problems that training on these rows would run into, each with a fix; [] if there are none.

    Checks the tokenizer, the model's configuration, and that the loss of every pair contains its answer and an end of
    turn: a template may treat one answer differently from the others.
    """
    problems = []
    config = model_config.get_text_config()
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        problems.append(
            f"The tokenizer has token ids up to {highest}, but the model's vocabulary has {config.vocab_size} tokens: "
            "they belong to different models. Load both from the same place, or resize the model's embeddings."
        )
    try:
        if not is_conversational(dataset):
            tokenize(dataset.select(range(min(len(dataset), _PROSE_ROWS))), tokenizer, max_length=1024)
            return problems
        require_template(tokenizer, hint=_TEMPLATE)
        rows = dataset[:]
        encoded = _encode_pairs(rows, tokenizer)
    except DlmError as error:
        return [*problems, str(error)]
    stops = {tokenizer.eos_token_id, *_as_list(config.eos_token_id)} - {None}
    without_loss, without_end, changed = [], [], []
    for conversation, ids, labels, where in zip(
        _conversations(rows), encoded["input_ids"], encoded["labels"], encoded["where"], strict=True
    ):
        trained = [label for label in labels if label != IGNORED]
        prompt = [message["content"] for message in conversation[:-1] if message["role"] != "assistant"]
        if not trained:
            without_loss.append(where)
        elif (text := missing_text(tokenizer, trained, [conversation[-1]["content"]])) is not None:
            changed.append(f"{where} ({_quoted(tokenizer.decode(trained))} is trained instead of {_quoted(text)})")
        elif (text := missing_text(tokenizer, ids[: -len(trained)], prompt)) is not None:
            changed.append(f"{where} (the prompt lacks {_quoted(text)})")
        elif not stops & set(trained):
            without_end.append(where)
    if without_loss:
        problems.append(f"No token is in the loss for {few(without_loss)}. Check that the template renders the answer.")
    if changed:
        hint = ONLY_PARTS if takes_only_parts(tokenizer) else _CHANGED
        problems.append(f"The chat template changes what is written in {few(changed)}. {hint}")
    if without_end:
        ends = ", ".join(sorted(map(repr, tokenizer.convert_ids_to_tokens(sorted(stops))))) or "none set"
        problems.append(
            f"No end of turn ({ends}) is in the loss for {few(without_end)}, so the model wouldn't learn to stop. End "
            "the assistant's turn in the chat template with the tokenizer's eos_token."
        )
    return problems


def _encode_pairs(batch: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Any]]:
    conversations, where_from = _conversations(batch), places(batch)
    columns: dict[str, list[Any]] = {column: [] for column in _FEATURES}
    for (whole, start), where in zip(split_answers(tokenizer, conversations, where_from), where_from, strict=True):
        _append(columns, whole, [IGNORED] * start + whole[start:], where)
    return columns


def _conversations(batch: Mapping[str, Sequence[Any]]) -> list[list[dict[str, str]]]:
    if "messages" in batch:
        return list(batch["messages"])
    return [prompt + answer for prompt, answer in zip(batch["prompt"], batch["completion"], strict=True)]


def _encode_texts(
    batch: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[Any]]:
    eos = tokenizer.eos_token_id
    start = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise TokenizerError(
            "The tokenizer has neither a BOS nor an EOS token.",
            hint="Set bos_token or eos_token.",
        )
    columns: dict[str, list[Any]] = {column: [] for column in _FEATURES}
    texts = encode_texts(tokenizer, list(batch["text"]))
    for text, where in zip(texts, places(batch), strict=True):
        for window in windows([start, *text, *_as_list(eos)], max_length):
            _append(columns, window, [IGNORED, *window[1:]], where)
    return columns


def windows(ids: Sequence[int], max_length: int) -> Iterator[list[int]]:
    """Split ids into windows of at most max_length.

    Each window begins with the last token of the previous one, as context without a loss, so that every token but the
    very first is predicted once. Raises DlmError (UsageError) for a max_length below 2.
    """
    if max_length < 2:
        raise UsageError(f"max_length is {max_length}.", hint="Use 2 or more.")
    for begin in range(0, len(ids) - 1, max_length - 1):
        yield list(ids[begin : begin + max_length])


def _append(columns: dict[str, list[Any]], ids: list[int], labels: list[int], where: str) -> None:
    row = {"input_ids": ids, "labels": labels, "length": len(ids), "where": where}
    row["trained"] = sum(label != IGNORED for label in labels)
    for column, value in row.items():
        columns[column].append(value)


def places(batch: Mapping[str, Sequence[Any]]) -> list[str]:
    """Where each row of a batch comes from, such as `dataset[:]`: file and line if known, else its number."""
    count = len(next(iter(batch.values())))
    if "source_file" not in batch:
        return [f"row {index}" for index in range(count)]
    return [f"{file}:{line}" for file, line in zip(batch["source_file"], batch["line"], strict=True)]


def _as_list(value: Any) -> list[Any]:
    """A list from a configuration value that may be None, a single value or a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…")


def few(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
