"""Settings of the recipes besides those of SFTConfig and DPOConfig. `recipes/sft.py --help` lists all of its own."""

from dataclasses import dataclass, field
from typing import Any, Literal


def _setting(default: object, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class RunArguments:
    """What both recipes share: the document, how to measure, where the adapter goes."""

    notes: str | None = _setting(
        None, "The .dlm document. Its frontmatter provides settings that you don't set. Optional with a task."
    )
    adapter_name: str | None = _setting(
        None, "Which of the document's named adapters (training.adapters) to train; required if it declares any."
    )
    validation_fraction: float = _setting(
        0.1, "Share of the source groups to hold out and only measure; 0 trains on everything."
    )
    questions: str | None = _setting(
        None,
        "JSON lines of questions to measure with, never trained on: reworded ones (question, reworded, answer), and of "
        "kind held-out, reverse (question, answer) or trap (question).",
    )
    max_questions: int = _setting(60, "Maximum number of questions of each group to ask before and after training.")
    measure: bool = _setting(
        True,
        "Measure validation loss, answers and perplexity before and after training, and the untrained base with the "
        "notes in its prompt (open book).",
    )
    export: str | None = _setting(
        None,
        "Export the trained adapter. merged: merge it into its base; awq: also quantise the result (extra: quant). "
        "Each step is checked.",
    )
    world_size: int | None = _setting(None, "Refuse to run with any other number of processes.")
    overwrite: bool = _setting(
        False,
        "Delete the checkpoints of an earlier run in output_dir. With resume_from_checkpoint: only if none of them is "
        "whole.",
    )


@dataclass
class NotesArguments(RunArguments):
    """What recipes/sft.py trains on, and how to measure it."""

    rows: Literal["sft", "sft_human", "sft_synth", "none"] = _setting(
        "sft",
        "Question/answer pairs to train on: all, hand-written ones, synthesised ones, or none. With none, the pairs "
        "are only used to measure.",
    )
    prose: bool = _setting(True, "Also train on the document's prose.")
    views: float = _setting(
        1.0,
        "Weight of the prose views stored by `dlm-trl synth views`: copies of each per epoch, beside one of each pair "
        "and each section of prose. 0 leaves them out.",
    )
    expand_sources: bool = _setting(True, "Read the files listed under training.sources as prose.")
    split_method: Literal["source_group", "reference"] = _setting(
        "source_group", "Hold out whole source groups, or row by row like the format's reference implementation."
    )
    objective: Literal["nll", "kl", "both"] = _setting(
        "nll",
        "Loss on answers. nll: cross-entropy. kl: context distillation, which pulls the model, without the notes, to "
        "the probabilities of the base that reads them. both: their sum. For pairs, and tasks that give a context "
        "(prose_qa and span_qa do).",
    )
    rehearsal: float = _setting(
        0.0,
        "Against forgetting: weight of the KL divergence from the base on general texts. Try 5; 0 turns it off.",
    )
    rehearsal_text: str | None = _setting(
        None, "Text file with general prose to rehearse. Unset: texts that the base writes before the first step."
    )


@dataclass
class PreferenceArguments(RunArguments):
    """What recipes/dpo.py starts from. It trains on the document's preference sections."""

    adapter_from: str | None = _setting(
        None,
        "Folder of the adapter to go on with, from recipes/sft.py; a copy of it is the reference. Unset: the "
        "document's current adapter.",
    )
    base_model: str | None = _setting(None, "The base that this adapter must be of. Unset: the document's.")
    reference: Literal["pre_adapter", "base"] = _setting(
        "pre_adapter", "What rewards are measured against: the adapter as it was at the start, or the base without it."
    )


@dataclass
class TaskArguments:
    """Train on rows that are written while training runs (see dlm_trl.online)."""

    task: str | None = _setting(
        None,
        "mcsb, arithmetic, prose_qa or span_qa (questions about the document's prose), or FILE.py:NAME for a task of "
        "your own.",
    )
    # str is second: it is the one that the parser uses for the command line.
    stages: list[Any] | str | dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "The task's options, one mapping per stage of a curriculum from easy to hard: a list in YAML, JSON "
            "on the command line. Unset: one stage with the task's defaults."
        },
    )
    stage_accuracy: float = _setting(0.9, "Accuracy that starts the next stage.")
    stage_window: int = _setting(10, "Steps over which that accuracy is averaged.")
    synthetic_fraction: float = _setting(
        1.0, "Share of rows that the task writes; the rest are the document's. With 1, set max_steps."
    )
    task_teacher: str = _setting(
        "base",
        "Who writes the rows: base (the model in training with its adapter off), hf:…, openai:…, anthropic:… or "
        "vllm-server:….",
    )
    task_rows: str | None = _setting(None, "Instead of a task: a folder of rows written by recipes/synthesize_task.py.")
    conditions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Multiple-choice questions to measure with before, after and every eval_steps: CHOICES:LABELS, "
            "such as 5:upper or 6-9:digits, on held-out words. mcsb has a default."
        },
    )
    condition_questions: int = _setting(100, "Questions per condition; each is asked in every order of its options.")
    glosses: str | None = _setting(
        None, "JSON file {word: description}: also measure the first condition with these descriptions."
    )


@dataclass
class AdapterArguments:
    """The base model and the adapter to train on it."""

    base_model: str | None = _setting(
        None, "tiny, a key such as smollm2-135m, hf:org/name, a local folder, or a .gguf file."
    )
    enable_thinking: bool = _setting(
        False,
        "Value of the chat template's variable enable_thinking, for training, measuring and serving. False: answer "
        "without thinking first. True is an error for a template without the variable.",
    )
    adapter: Literal["lora", "qlora", "dora", "adalora"] = _setting(
        "lora", "Adapter type. qlora is lora on a quantised base; adalora starts with high ranks and prunes them."
    )
    quantization: Literal["4bit", "8bit"] | None = _setting(
        None, "Load the base in 4 or 8 bit (bitsandbytes). qlora defaults to 4bit."
    )
    lora_r: int = _setting(32, "Rank; for adalora, the mean rank after pruning.")
    lora_alpha: int = _setting(64, "The adapter's output is scaled by lora_alpha / lora_r.")
    lora_dropout: float = _setting(0.0, "Dropout in front of the adapter.")
    target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the modules to adapt; auto or unset: every linear layer except the output head."},
    )
    adalora_init_r: int | None = _setting(None, "adalora: initial rank; unset: 1.5 × lora_r.")
    adalora_warmup: float = _setting(0.1, "adalora: share of the steps before pruning starts.")
    adalora_final: float = _setting(0.3, "adalora: share of the steps after pruning ends.")
