"""Everything a training run starts from, resolved once by `prepare` or `prepare_preferences` and then only read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, SFTConfig

from dlm_trl.evaluation.spec import EvaluationSpec, NotesQuestions
from dlm_trl.models.lineage import Step
from dlm_trl.notes import Document
from dlm_trl.train.arguments import AdapterArguments, NotesArguments, PreferenceArguments, RunArguments, TaskArguments
from dlm_trl.train.data import Rows, Tokens
from dlm_trl.train.preferences import PreferenceRows


@dataclass(frozen=True)
class AdapterRun:
    """What the runs of both recipes have: settings and data, no weights.

    notes, adapter, training: the settings by group. base_model: its name as the user or the adapter has it. document:
    parsed once, None for a run on a task alone. trainable: number of parameters of the adapter. checkpoint: the one to
    resume from. resume_settings: what a resumed run must or should have in common with this one. notices: what was
    changed before the run, one line each.
    """

    notes: RunArguments
    adapter: AdapterArguments
    training: SFTConfig | DPOConfig
    base_model: str
    document: Document | None
    tokenizer: PreTrainedTokenizerBase
    trainable: int
    rows: Rows | PreferenceRows
    eval_spec: EvaluationSpec
    checkpoint: str | None
    resume_settings: dict[str, Any]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Run(AdapterRun):
    """A run of recipes/sft.py.

    tokens: the document's rows for the trainer. task_rows: rows that a task wrote before this run. contexts: what the
    base reads for each pair, if the objective needs that. rehearsal_texts: token ids of the texts to rehearse, None if
    the base writes them.
    """

    notes: NotesArguments
    training: SFTConfig
    rows: Rows
    task: TaskArguments
    peft_config: PeftConfig
    tokens: Tokens
    task_rows: Dataset | None
    contexts: dict[tuple[int, ...], list[int]]
    rehearsal_texts: Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class PreferenceRun(AdapterRun):
    """A run of recipes/dpo.py.

    adapter_from: the folder of the adapter to go on with. earlier: the steps that made it, as its lineage records them.
    weights: the SHA-256 of its weights. questions: what to ask about the document's pairs.
    """

    notes: PreferenceArguments
    training: DPOConfig
    document: Document
    rows: PreferenceRows
    adapter_from: Path
    earlier: tuple[Step, ...]
    weights: str
    questions: NotesQuestions
