"""The settings of the recipe that are ours; all others are those of SFTConfig. `recipes/sft.py --help` has both."""

from dataclasses import dataclass, field
from typing import Literal


def _setting(default: object, help: str) -> object:
    return field(default=default, metadata={"help": help})


@dataclass
class NotesArguments:
    """What is learned, and how it is measured."""

    notes: str = field(metadata={"help": "The .dlm document. Its frontmatter sets whatever is not set otherwise."})
    adapter_name: str | None = _setting(
        None, "Which of the document's named adapters to train (training.adapters); needed where it declares some."
    )
    rows: Literal["sft", "sft_human", "sft_synth"] = _setting(
        "sft", "Which question/answer pairs to learn: all, those written by hand, or the synthesised ones."
    )
    prose: bool = _setting(True, "Learn the document's prose too, beside its pairs.")
    expand_sources: bool = _setting(True, "Read the files that training.sources names, as prose.")
    validation_fraction: float = _setting(
        0.1, "Share of the source groups that is held out and only measured; 0 learns everything."
    )
    split_method: Literal["source_group", "reference"] = _setting(
        "source_group", "How rows are held out: whole source groups, or row by row as the format's reference does it."
    )
    questions: str | None = _setting(
        None, "JSON lines with question, reworded and answer: reworded questions that are asked and never learned."
    )
    max_questions: int = _setting(100, "At most so many questions of each kind are asked before and after training.")
    measure: bool = _setting(True, "Measure validation loss, answer recall and perplexity before and after training.")
    world_size: int | None = _setting(None, "Stop unless the run has exactly so many processes.")
    overwrite: bool = _setting(False, "Remove the checkpoints of an earlier run in output_dir and start over.")


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
    lora_r: int = _setting(8, "Rank of the adapter; for adalora the mean rank that is left at the end.")
    lora_alpha: int = _setting(16, "The adapter's output is scaled by lora_alpha / lora_r.")
    lora_dropout: float = _setting(0.05, "Dropout before the adapter.")
    target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the modules to adapt; auto or unset: every linear layer except the output head."},
    )
    adalora_init_r: int | None = _setting(None, "adalora: rank at the start; unset: half as much again as lora_r.")
    adalora_warmup: float = _setting(0.1, "adalora: share of the steps before pruning begins.")
    adalora_final: float = _setting(0.3, "adalora: share of the steps after pruning has ended.")
