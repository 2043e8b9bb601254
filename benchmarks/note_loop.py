"""A published training loop, reimplemented as a baseline: `python benchmarks/note_loop.py [--adapter lora]`.

M. Robeyns, "Fixing LLM Defects and Adding Skills with Synthetic Data" (2023), teaches a model to bind symbols. A step
has four micro batches of 40 questions. Each question has five words, the first of which is the answer. `generate`, with
the adapter off and the whole few-shot prompt, writes 20 tokens at temperature 0.5; the text up to the newline is the
description. The model computes the logits of all positions, and the loss is on the label. AdaLoRA, learning rate 1e-3,
20 warm-up steps. As in the original, the model is never put into eval mode, AdaLoRA's ranks are never updated, a word
may be among the options twice, and a description may contain its word. Words, prompts and labels are those of
`dlm_trl.tasks.mcsb`.

--savings removes unnecessary work from the step (see `SAVINGS`); online.py measures each saving. Prints one line of
JSON.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from dlm_trl.models.generate import generate_batches
from dlm_trl.models.load import load_base, load_tokenizer
from dlm_trl.models.prefix import PrefixCache, common_prefix
from dlm_trl.tasks import prompts
from dlm_trl.tasks.mcsb import Mcsb, bind

MICRO_BATCH = 40
ACCUMULATION = 4
LEARNING_RATE = 1e-3
WARMUP = 20
NEW_TOKENS = 20
TEMPERATURE = 0.5
LABELS = "ABCDE"
GPU = torch.cuda.is_available()
# One generate call for all questions of a step; the few-shot prompt's KV cache computed once; no tokens after the
# newline; logits of the last position only.
SAVINGS = ("one_call", "prefix_cache", "stop_at_newline", "labelled_positions")

Clock = Callable[[], float]


@dataclass
class Result:
    """Totals over all steps except the first, which includes one-time costs."""

    questions: int = 0
    seconds: float = 0.0
    generating: float = 0.0  # seconds
    new_tokens: int = 0
    passes: int = 0  # forward passes during generation
    loss: float = 0.0  # mean over the steps
    accuracy: float = 0.0  # mean over the steps, among the labels

    @property
    def rate(self) -> float:
        """Questions per second, end to end."""
        return self.questions / self.seconds


class Passes:
    """Counts the base's forward passes without gradients."""

    def __init__(self, model: PeftModel) -> None:
        self.count = 0
        model.get_base_model().register_forward_hook(self._counted)

    def _counted(self, *_: Any) -> None:
        self.count += not torch.is_grad_enabled()


def clock(name: str) -> Clock:
    """A clock in seconds: "wall", or "cpu" for this process's CPU time. On a GPU it waits for pending work first."""
    now = {"wall": time.perf_counter, "cpu": time.process_time}[name]

    def synchronized() -> float:
        torch.cuda.synchronize()
        return now()

    return synchronized if GPU else now


def adapter_config(adapter: str, steps: int) -> LoraConfig:
    """Rank 16 on every linear layer."""
    common = {"target_modules": "all-linear", "lora_alpha": 32, "task_type": "CAUSAL_LM"}
    if adapter == "adalora":
        return AdaLoraConfig(init_r=16, target_r=8, total_step=steps, **common)
    return LoraConfig(r=16, **common)


def load(base_model: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Base and tokenizer; float32 on a CPU, bfloat16 on a GPU."""
    dtype, device = (torch.bfloat16, "cuda") if GPU else (torch.float32, "cpu")
    return load_base(base_model, dtype=dtype).to(device), load_tokenizer(base_model)


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
    seed: int = 0,
    savings: Collection[str] = (),
    now: Clock = time.perf_counter,
) -> Result:
    """Run one step plus `steps` measured ones. Raises ValueError for an unknown saving."""
    if unknown := set(savings) - set(SAVINGS):
        raise ValueError(f"Unknown savings: {unknown}")
    torch.manual_seed(seed)
    rng = random.Random(seed)
    words, bound = Mcsb(tokenizer).words, bind(tokenizer, LABELS)
    labels = torch.tensor(bound.ids, device=model.device)
    describe = Describer(model, tokenizer, savings, rng, now)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, steps + 1)
    model.train()
    for step in range(steps + 1):
        if step <= 1:
            describe.seconds, describe.new_tokens, describe.passes.count = 0.0, 0, 0
            result, started = Result(), now()
        batches = [[rng.choices(words, k=len(LABELS)) for _ in range(MICRO_BATCH)] for _ in range(ACCUMULATION)]
        together = describe([options[0] for options in chain(*batches)]) if "one_call" in savings else None
        for k, batch in enumerate(batches):
            if together:
                descriptions = together[k * MICRO_BATCH : (k + 1) * MICRO_BATCH]
            else:
                descriptions = describe([options[0] for options in batch])
            orders = [rng.sample(range(len(LABELS)), len(LABELS)) for _ in batch]
            questions = [
                prompts.question(text, [options[i] for i in order], LABELS) + bound.gap
                for text, options, order in zip(descriptions, batch, orders, strict=True)
            ]
            right = torch.tensor([order.index(0) for order in orders], device=model.device)
            coded = tokenizer(questions, return_tensors="pt", padding=True, padding_side="left").to(model.device)
            kept = {"logits_to_keep": 1} if "labelled_positions" in savings else {}
            last = model(**coded, **kept).logits[:, -1].float()
            loss = torch.nn.functional.cross_entropy(last, labels[right]) / ACCUMULATION
            loss.backward()
            result.questions += len(batch)
            result.loss += loss.item() / steps
            result.accuracy += (last[:, labels].argmax(-1) == right).float().mean().item() / ACCUMULATION / steps
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    result.seconds, result.generating = now() - started, describe.seconds
    result.new_tokens, result.passes = describe.new_tokens, describe.passes.count
    return result


class Describer:
    """Describes words with the base, the adapter switched off."""

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        savings: Collection[str],
        rng: random.Random,
        now: Clock,
    ) -> None:
        self.model, self.tokenizer, self.savings, self.rng, self.now = model, tokenizer, savings, rng, now
        self.seconds, self.new_tokens, self.passes = 0.0, 0, Passes(model)
        self.few_shot = prompts.description_prefix()
        self.prefix: PrefixCache | None = None
        if "prefix_cache" in savings:
            texts = [self.few_shot + prompts.description_prompt(word) for word in ("cat", "dog")]
            shared = common_prefix([tokenizer(text)["input_ids"] for text in texts])
            with model.disable_adapter():
                self.prefix = PrefixCache.of(model.get_base_model(), shared)

    def __call__(self, words: Sequence[str]) -> list[str]:
        started = self.now()
        texts = [self.few_shot + prompts.description_prompt(word) for word in words]
        with self.model.disable_adapter(), torch.no_grad():
            written = self._stopped(texts) if "stop_at_newline" in self.savings else self._fixed(texts)
        self.seconds += self.now() - started
        return [text.strip() for text in written]

    def _fixed(self, texts: list[str]) -> list[str]:
        # Each word is one token, so nothing is padded and the prefix has the same position in every row.
        coded = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(self.model.device)
        width = coded["input_ids"].shape[1]
        sequences = self.model.generate(
            **coded,
            past_key_values=self.prefix.repeat(len(texts), width + NEW_TOKENS) if self.prefix else None,
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            temperature=TEMPERATURE,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        new = sequences[:, width:]
        self.new_tokens += new.numel()
        return [text.split("\n")[0] for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _stopped(self, texts: list[str]) -> list[str]:
        batches = generate_batches(
            self.model,
            self.tokenizer,
            texts,
            NEW_TOKENS,
            TEMPERATURE,
            stop=["\n"],
            seed=self.rng.getrandbits(63),
            token_budget=2**62,
            prefix=self.prefix,
        )
        rows = sorted(row for batch in batches for row in batch)
        self.new_tokens += sum(row.new_tokens for row in rows)
        return [row.text for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="tiny", help="a base model, as in a document (default: %(default)s)")
    parser.add_argument("--adapter", choices=["lora", "adalora"], default="adalora")
    parser.add_argument("--steps", type=int, default=4, help="measured steps, after a first one (default: %(default)s)")
    parser.add_argument("--savings", default="", help=f"comma-separated: {', '.join(SAVINGS)} (default: none)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    args = parser.parse_args()
    base, tokenizer = load(args.base_model)
    model = get_peft_model(base, adapter_config(args.adapter, args.steps + 1))
    savings = args.savings.split(",") if args.savings else []
    result = train(model, tokenizer, args.steps, args.seed, savings, clock(args.clock))
    print(json.dumps({"questions_per_second": round(result.rate, 2), **vars(result)}))


if __name__ == "__main__":
    main()
