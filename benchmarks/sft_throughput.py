"""How many real tokens per second the recipe trains on, against SFTTrainer with SFTConfig's defaults.

    python benchmarks/sft_throughput.py                # on a CPU: a few minutes
    python benchmarks/sft_throughput.py --hidden 2048 --layers 16 --heads 32 --vocabulary 32000     # on a GPU
    python benchmarks/sft_throughput.py --base_model smollm2-135m

All variants use the same model, with random weights unless `--base_model` names one, and the same short pairs, with the
tokens of 32 rows per optimizer step (with packing: 8 bins with the length of four mean rows each). Padding doesn't
count. The variants take turns, so that other load on the machine affects all of them, and each figure is the best of
its rounds. `--clock cpu` counts this process's CPU time, for a machine with other load.

On a GPU, SFTTrainer's variants load float32 weights, as TRL does by default, and the recipe loads bfloat16, as it does.
Two more columns are printed there: the peak of the GPU's memory, and TFLOP/s. One token takes 4 operations per weight
outside embeddings and head: LoRA needs a forward pass and a backward pass to the inputs, not to the weights.
"""

import argparse
import os
import random
import re
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from dlm_trl.models.load import load_base, load_config, load_tokenizer
from dlm_trl.models.tokenize import IGNORED, pad_token
from dlm_trl.online.hooks import add_hook
from dlm_trl.train.loss import UncastInputs, scored_where_labelled

ROWS_PER_STEP = 32
PAD, EOS = "<pad>", "<eos>"
RECIPE = {"train_sampling_strategy": "batch_rebalance", "gradient_checkpointing": False}


@dataclass(frozen=True)
class Result:
    """Real tokens per second without the first step, tokens per optimizer step, mean loss of the last quarter.

    peak: of the GPU's memory, in GB. flops: per token.
    """

    rate: float
    tokens_per_step: float
    loss: float
    peak: float
    flops: float


class Clock(TrainerCallback):
    """Measures from the end of the first step, which includes one-time costs."""

    def __init__(self, clock: str) -> None:
        self.now = time.perf_counter if clock == "wall" else time.process_time

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.last = self.now()
        if state.global_step == 1:
            self.first = self.last


def main() -> None:
    options = parse()
    gpu = torch.cuda.is_available()
    if options.base_model:
        options.vocabulary = load_config(options.base_model).get_text_config().vocab_size
    rows = short_pairs(options.vocabulary, options.steps * ROWS_PER_STEP)
    mean = sum(map(len, rows["input_ids"])) / len(rows)
    # As many tokens per step with TRL's packing: 8 bins of 4 mean rows each.
    packed = {"packing": True, "max_length": round(4 * mean), "bf16": gpu, "gradient_checkpointing": False}
    variants = {
        "SFTConfig's defaults": {},
        "TRL's packing, else defaults": packed | {"bf16": None, "gradient_checkpointing": True},
        "TRL's packing, our precision": packed,
        "the recipe": RECIPE | {"bf16": gpu},
    }
    best: dict[str, Result] = {}
    for _ in range(options.rounds):
        for name, settings in variants.items():
            result = train(rows, settings, options)
            best[name] = max(result, best.get(name, result), key=lambda r: r.rate)
    base = best["SFTConfig's defaults"]
    print(f"{len(rows)} pairs of {mean:.0f} tokens on average; {torch.get_num_threads()} threads; GPU: {gpu}")
    more = " peak GB | TFLOP/s |" if gpu else ""
    print(f"| | real tokens/s | ratio | tokens per step | last loss | difference |{more}")
    print(f"|---|---:|---:|---:|---:|---:|{'---:|---:|' if gpu else ''}")
    for name, result in best.items():
        on_gpu = f" {result.peak:.2f} | {result.rate * result.flops / 1e12:.1f} |" if gpu else ""
        print(
            f"| {name} | {result.rate:,.0f} | {result.rate / base.rate:.2f} | {result.tokens_per_step:,.0f} | "
            f"{result.loss:.3f} | {result.loss / base.loss - 1:+.1%} |{on_gpu}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"hidden": 192, "layers": 4, "heads": 4, "vocabulary": 4096, "steps": 20, "rounds": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--base_model", help="a base model, as in a document, instead of random weights")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    return parser.parse_args()


def short_pairs(vocabulary: int, count: int) -> Dataset:
    """Learnable pairs: questions of 12–40 tokens, answers of 4–30, one in ten of them 40 tokens longer."""
    rng = random.Random(0)

    def row() -> dict[str, list[int]]:
        question = rng.randint(12, 40)
        length = question + rng.randint(4, 30) + (40 if rng.random() < 0.1 else 0)
        start, stride = rng.randrange(64), rng.randint(1, 3)
        ids = [2 + (start + k * stride) % min(64, vocabulary - 2) for k in range(length)]
        return {"input_ids": ids, "labels": [IGNORED] * question + ids[question:], "length": length}

    return Dataset.from_list([row() for _ in range(count)])


def train(rows: Dataset, settings: dict, options: argparse.Namespace) -> Result:
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    is_recipe = settings.items() >= RECIPE.items()
    model, tokenizer = load(options, torch.bfloat16 if gpu and is_recipe else torch.float32)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(options.clock)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1 if settings.get("packing") else ROWS_PER_STEP // 8,
            num_train_epochs=1,
            learning_rate=5e-3,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not gpu,
            **settings,
        )
        trainer = SFTTrainer(
            model,
            arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=16, lora_alpha=32),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        if is_recipe:
            add_hook(trainer, UncastInputs(trainer))
        with scored_where_labelled() if is_recipe else nullcontext():
            trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    tokens = history[-1]["num_tokens"] - history[0]["num_tokens"]
    last = [entry["loss"] for entry in history[-len(history) // 4 :]]
    return Result(
        rate=tokens / (clock.last - clock.first),
        tokens_per_step=history[-1]["num_tokens"] / len(history),
        loss=sum(last) / len(last),
        peak=torch.cuda.max_memory_allocated() / 1e9 if gpu else 0.0,
        flops=4.0 * sum(p.numel() for name, p in model.named_parameters() if not re.search("embed|lm_head", name)),
    )


def load(options: argparse.Namespace, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model with its tokenizer, or a Llama with random weights and a tokenizer of as many words."""
    if options.base_model:
        tokenizer = load_tokenizer(options.base_model)
        tokenizer.pad_token = pad_token(tokenizer)[0]
        return load_base(options.base_model, dtype), tokenizer
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=options.vocabulary,
            hidden_size=options.hidden,
            intermediate_size=4 * options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            num_key_value_heads=options.heads,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    words = {PAD: 0, EOS: 1} | {f"w{k}": k for k in range(2, options.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token=EOS)), pad_token=PAD, eos_token=EOS
    )
    return model.to(dtype), tokenizer


if __name__ == "__main__":
    main()
