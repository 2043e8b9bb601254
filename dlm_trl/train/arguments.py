"""The settings of the recipe that are ours; all others are those of SFTConfig. `recipes/sft.py --help` has both."""

from dataclasses import dataclass, field
from typing import Any, Literal


def _setting(default: object, help: str) -> object:
    return field(default=default, metadata={"help": help})


@dataclass
class NotesArguments:
    """What is learned, and how it is measured."""

    notes: str | None = _setting(
        None, "The .dlm document. Its frontmatter sets whatever is not set otherwise. A task can do without one."
    )
    adapter_name: str | None = _setting(
        None, "Which of the document's named adapters to train (training.adapters); needed where it declares some."
    )
    rows: Literal["sft", "sft_human", "sft_synth", "none"] = _setting(
        "sft",
        "Which question/answer pairs to learn: all, those written by hand, the synthesised ones, or none; the pairs "
        "are then asked before and after, never learned.",
    )
    prose: bool = _setting(True, "Learn the document's prose too, beside its pairs.")
    expand_sources: bool = _setting(True, "Read the files that training.sources names, as prose.")
    validation_fraction: float = _setting(
        0.1, "Share of the source groups that is held out and only measured; 0 learns everything."
    )
    split_method: Literal["source_group", "reference"] = _setting(
        "source_group", "How rows are held out: whole source groups, or row by row as the format's reference does it."
    )
    rehearsal: float = _setting(
        0.0, "Against forgetting: weight of the divergence from the base on general texts; try 5. 0: no rehearsal."
    )
    rehearsal_text: str | None = _setting(
        None, "A file of general prose to rehearse; unset: texts that the base itself writes before the first step."
    )
    questions: str | None = _setting(
        None, "JSON lines with question, reworded and answer: reworded questions that are asked and never learned."
    )
    max_questions: int = _setting(100, "At most so many questions of each kind are asked before and after training.")
    measure: bool = _setting(
        True,
        "Measure validation loss, answer recall and perplexity before and after training, and how well the untrained "
        "base answers with the notes in its prompt.",
    )
    export: str | None = _setting(
        None,
        "Export the trained adapter. merged: merge it into its base; awq: also quantise the result (extra quant).",
    )
    world_size: int | None = _setting(None, "Stop unless the run has exactly so many processes.")
    overwrite: bool = _setting(
        False,
        "Remove the checkpoints of an earlier run in output_dir and start over. With resume_from_checkpoint nothing is "
        "removed.",
    )


@dataclass
class TaskArguments:
    """A skill or notes, learned from rows that are written while training goes on (`dlm_trl.online`)."""

    task: str | None = _setting(
        None, "mcsb, arithmetic, prose_qa (questions about the document's prose), or FILE.py:NAME for your own task."
    )
    # str comes second: that is the one which the parser takes for the command line.
    stages: list[Any] | str | dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "The task's options, as a list of mappings (on the command line as JSON): one for each stage of a "
            "curriculum, from easy to hard. Unset: one stage with the task's defaults."
        },
    )
    stage_accuracy: float = _setting(0.9, "Accuracy on its rows that starts the next stage.")
    stage_window: int = _setting(10, "Steps over which that accuracy is averaged.")
    synthetic_fraction: float = _setting(
        1.0, "Share of the rows that the task writes; the others are the document's. With 1 set max_steps."
    )
    task_teacher: str = _setting(
        "base", "Who writes the rows: base (the frozen base in training), hf:…, openai:…, anthropic:…, vllm-server:…."
    )
    task_rows: str | None = _setting(
        None, "Instead of a task: the folder of rows that recipes/synthesize_task.py wrote."
    )
    conditions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Multiple-choice questions to measure with before, after and every eval_steps: CHOICES:LABELS, as "
            "5:upper or 6-9:digits, on words that training never meets. For mcsb there is a default."
        },
    )
    condition_questions: int = _setting(100, "Questions of each condition; each is asked in every order of options.")
    glosses: str | None = _setting(
        None, "JSON, {word: description}: the first condition is measured with these descriptions, too."
    )


@dataclass
class AdapterArguments:
    """What is trained on top of what."""

    base_model: str | None = _setting(None, "tiny, a key such as smollm2-135m, hf:org/name, or a local folder.")
    adapter: Literal["lora", "qlora", "dora", "adalora"] = _setting(
        "lora", "Kind of adapter. qlora is lora on a quantised base; adalora starts wide and prunes its ranks."
    )
    quantization: Literal["4bit", "8bit"] | None = _setting(
        None, "Load the base in 4 or 8 bit (bitsandbytes). With adapter: qlora it is 4bit unless set."
    )
    lora_r: int = _setting(32, "Rank of the adapter; for adalora the mean rank that is left at the end.")
    lora_alpha: int = _setting(64, "The adapter's output is scaled by lora_alpha / lora_r.")
    lora_dropout: float = _setting(0.0, "Dropout before the adapter.")
    target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the modules to adapt; auto or unset: every linear layer except the output head."},
    )
    adalora_init_r: int | None = _setting(None, "adalora: rank at the start; unset: half as much again as lora_r.")
    adalora_warmup: float = _setting(0.1, "adalora: share of the steps before pruning begins.")
    adalora_final: float = _setting(0.3, "adalora: share of the steps after pruning has ended.")
