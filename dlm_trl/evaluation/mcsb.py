"""Measure multiple-choice symbol binding: does a model give the label of the option it means, whatever the order?

    questions = described_questions(model, Mcsb(tokenizer, choices=(5, 9), split="held_out"), 200, seed=0)
    result = measure_binding(model, tokenizer, questions)
    result.accuracy, result.low, result.high, result.chance, result.ppa

Each question is asked once for each rotation of its options, so each option gets each label once. The answer is the
likeliest label. Rows of an online run are questions too: `McsbQuestion(**example.facts)`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple, TypeVar, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import evaluating, run_in_batches
from dlm_trl.models.control_tokens import encode_texts
from dlm_trl.models.frozen import frozen
from dlm_trl.models.generate import generate, row_seed
from dlm_trl.models.sharding import is_sharded
from dlm_trl.tasks import prompts
from dlm_trl.tasks.mcsb import Mcsb, bind
from dlm_trl.tasks.protocol import Example

ATTEMPTS = 8  # a question is dropped after this many rejected descriptions
TOKEN_BUDGET = 8_192  # rows × longest row of one batch
Z = 1.959963984540054  # 95 % of a normal distribution is within this many standard deviations

T = TypeVar("T")


class McsbQuestion(NamedTuple):
    """A question: which of `options` fits the description? labels: one character for each option, in order."""

    word: str
    description: str
    options: Sequence[str]
    labels: str


@dataclass(frozen=True, slots=True)
class Binding:
    """Shares from 0 to 1; see `mcsb_scores` for each of them."""

    accuracy: float
    low: float
    high: float
    chance: float
    ppa: float
    unchanged: float
    labels: dict[str, float]  # how often each label was the answer; models that can't bind have favourites
    questions: int
    passes: int  # forward passes of one row each


def described_questions(
    model: PreTrainedModel | PeftModel, task: Mcsb, count: int, seed: int, attempts: int = ATTEMPTS
) -> list[McsbQuestion]:
    """Questions of the task, with descriptions written by the base model (the adapter is disabled).

    A question depends only on the seed and its number. If its description is rejected, it's drawn again, and dropped
    after `attempts` tries, so fewer than `count` questions can come back.
    """
    rows: dict[int, McsbQuestion] = {}
    with frozen(model) if isinstance(model, PeftModel) else nullcontext(model) as base:
        for attempt in range(attempts):
            missing = [i for i in range(count) if i not in rows]
            seeds = [row_seed(seed, i, attempt) for i in missing]
            items = [item for s in seeds for item in task.draw(random.Random(s), 1)]
            texts = generate(
                base,
                task.tokenizer,
                cast(list[str], task.prompts(items)),  # other tasks can have messages as prompts, this one doesn't
                task.max_new_tokens,
                task.temperature,
                stop=task.stop,
                seed=seeds,
            )
            examples = zip(missing, task.examples(items, texts), strict=True)
            rows |= {i: McsbQuestion(**example.facts) for i, example in examples if isinstance(example, Example)}
    return [rows[i] for i in sorted(rows)]


def glossed_questions(task: Mcsb, glosses: Mapping[str, str], count: int, seed: int) -> list[McsbQuestion]:
    """Questions with given descriptions; `glosses` has one for each of the task's words."""
    items = [task.draw(random.Random(row_seed(seed, i)), 1)[0] for i in range(count)]
    return [McsbQuestion(**task.example(item, glosses[item.word]).facts) for item in items]


def measure_binding(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[McsbQuestion],
    token_budget: int = TOKEN_BUDGET,
) -> Binding:
    """Ask each question with all rotations of its options.

    Raises ValueError for no questions, DlmError (TokenizerError) for labels that aren't single tokens.
    """
    bounds = {q.labels: bind(tokenizer, q.labels) for q in questions}
    orders = [(q, rotated(q.options, by)) for q in questions for by in range(len(q.options))]
    texts = [prompts.question(q.description, options, q.labels) + bounds[q.labels].gap for q, options in orders]
    chosen = choose(model, tokenizer, texts, [bounds[q.labels].ids for q, _ in orders], token_budget)
    picked = iter(options[k] for (_, options), k in zip(orders, chosen, strict=True))
    label_counts = Counter(q.labels[k] for (q, _), k in zip(orders, chosen, strict=True))
    return Binding(
        **mcsb_scores([[next(picked) for _ in q.options] for q in questions], [q.word for q in questions]),
        labels={label: label_counts[label] / len(chosen) for label in sorted(label_counts)},
        questions=len(questions),
        passes=len(chosen),
    )


def mcsb_scores(picked: Sequence[Sequence[str]], right: Sequence[str]) -> dict[str, float]:
    """Accuracy and consistency of the picked options; for each question, one pick for each rotation of its options.

    - accuracy: averaged over the rotations of a question, then over questions; low, high: its 95 % interval (`wilson`)
    - chance: the accuracy of guessing
    - ppa: the share of a question's rotations that agree with its most frequent pick, averaged over questions
      (Proportion of Plurality Agreement; Robinson et al., "Leveraging Large Language Models for Multiple Choice
      Question Answering", ICLR 2023, who use all permutations). It's 1 for a model that always picks the same option,
      even a wrong one, and `chance` for one that always gives the same label.
    - unchanged: the share of questions with the same pick in all rotations

    Raises ValueError for no questions.
    """
    if not right:
        raise ValueError("no questions to score")
    accuracy = fmean(list(p).count(r) / len(p) for p, r in zip(picked, right, strict=True))
    low, high = wilson(accuracy, len(right))
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "chance": fmean(1 / len(p) for p in picked),
        "ppa": fmean(Counter(p).most_common(1)[0][1] / len(p) for p in picked),
        "unchanged": fmean(len(set(p)) == 1 for p in picked),
    }


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a mean of `count` independent numbers between 0 and 1 (Wilson 1927).

    It's made for numbers that are 0 or 1. Others vary less around the same mean, so for them it's wider than necessary.
    It stays within 0 and 1, and doesn't shrink to a point if all answers are right.
    """
    spread = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    middle, scale = share + Z**2 / (2 * count), 1 + Z**2 / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def choose(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    candidates: Sequence[Sequence[int]],
    token_budget: int = TOKEN_BUDGET,
) -> list[int]:
    """For each prompt, the index of the candidate (a token id) that is the likeliest next token; one pass a prompt."""
    tokens = encode_texts(tokenizer, prompts, add_special_tokens=True)

    def run(batch: list[int]) -> list[int]:
        width = max(len(tokens[i]) for i in batch)
        # Right padding isn't seen by real tokens. Logits are only computed where some row ends.
        rows = [tokens[i] + [0] * (width - len(tokens[i])) for i in batch]
        mask = [[1] * len(tokens[i]) + [0] * (width - len(tokens[i])) for i in batch]
        ends = sorted({len(tokens[i]) - 1 for i in batch})
        logits = model(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            logits_to_keep=torch.tensor(ends, device=model.device),
            use_cache=False,
        ).logits
        return [
            int(logits[k, ends.index(len(tokens[i]) - 1), list(candidates[i])].argmax()) for k, i in enumerate(batch)
        ]

    with evaluating(model), torch.no_grad():
        return run_in_batches(run, [len(t) for t in tokens], token_budget, halve=not is_sharded(model))


def rotated(options: Sequence[T], by: int) -> list[T]:
    """The options rotated to start with number `by`."""
    return [*options[by:], *options[:by]]
