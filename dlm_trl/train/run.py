"""Everything a training run starts from, resolved once by `prepare` and then only read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig

from dlm_trl.evaluation.spec import EvaluationSpec
from dlm_trl.notes import Document
from dlm_trl.train.arguments import AdapterArguments, NotesArguments, TaskArguments
from dlm_trl.train.data import Rows, Tokens


@dataclass(frozen=True)
class Run:
    """Settings and data of a run; no weights.

    The first four are the settings by group. base_model: its name as the user wrote it. document: parsed once, None for
    a run on a task alone. trainable: number of parameters of the adapter. tokens: the document's rows for the trainer.
    task_rows: rows that a task wrote before this run. contexts: what the base reads for each pair, if the objective
    needs that. rehearsal_texts: token ids of the texts to rehearse, None if the base writes them. checkpoint: the one
    to resume from. resume_settings: what a resumed run must or should have in common with this one. notices: what
    `prepare` changed, one line each.
    """

    notes: NotesArguments
    adapter: AdapterArguments
    task: TaskArguments
    training: SFTConfig
    base_model: str
    document: Document | None
    tokenizer: PreTrainedTokenizerBase
    peft_config: PeftConfig
    trainable: int
    rows: Rows
    tokens: Tokens
    task_rows: Dataset | None
    contexts: dict[tuple[int, ...], list[int]]
    rehearsal_texts: Sequence[Sequence[int]] | None
    eval_spec: EvaluationSpec
    checkpoint: str | None
    resume_settings: dict[str, Any]
    notices: tuple[str, ...]
