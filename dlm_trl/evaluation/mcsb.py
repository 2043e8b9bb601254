"""Multiple-choice symbol binding, measured: does a model say the label of what it means, wherever that stands?

    asked = described_questions(model, Mcsb(tokenizer, choices=(5, 9), split="held_out"), 200, seed=0)
    found = measure_binding(model, tokenizer, asked)
    found.accuracy, found.low, found.high, found.chance, found.ppa

Every question is asked once for each rotation of its options, so that each option stands behind each label once, and
the answer is the likeliest of the labels. Rows of an online run are questions too: `McsbQuestion(**example.facts)`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple, TypeVar

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.batching import evaluating, run_in_batches
from dlm_trl.models.frozen import frozen
from dlm_trl.models.generate import generate, row_seed
from dlm_trl.tasks import prompts
from dlm_trl.tasks.mcsb import Mcsb, bind
from dlm_trl.tasks.protocol import Example

ATTEMPTS = 8  # a base that cannot describe eight words in a row is not asked about a ninth
TOKEN_BUDGET = 8_192  # rows × longest row of one batch
Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations

T = TypeVar("T")


class McsbQuestion(NamedTuple):
    """A question: which of `options` is described? `labels` are theirs, in order, one character each."""

    word: str
    description: str
    options: Sequence[str]
    labels: str


@dataclass(frozen=True, slots=True)
class Binding:
    """What came out, as shares of 0 to 1; `mcsb_scores` says what each of them is."""

    accuracy: float
    low: float
    high: float
    chance: float
    ppa: float
    unchanged: float
    labels: dict[str, float]  # how often each label was answered; a model that cannot bind has favourites
    questions: int
    passes: int  # forward passes of one row each


def described_questions(
    model: PreTrainedModel | PeftModel, task: Mcsb, count: int, seed: int, attempts: int = ATTEMPTS
) -> list[McsbQuestion]:
    """Questions of the task whose descriptions the base writes, with its adapter switched off.

    A question is a function of seed and its number. One whose description is rejected is drawn anew, and left out after
    so many attempts; so there may be fewer than `count`.
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
                task.prompts(items),
                task.max_new_tokens,
                task.temperature,
                stop=task.stop,
                seed=seeds,
            )
            examples = zip(missing, task.examples(items, texts), strict=True)
            rows |= {i: McsbQuestion(**example.facts) for i, example in examples if isinstance(example, Example)}
    return [rows[i] for i in sorted(rows)]


def glossed_questions(task: Mcsb, glosses: Mapping[str, str], count: int, seed: int) -> list[McsbQuestion]:
    """Questions whose descriptions come from elsewhere; `glosses` has one for each of the task's words."""
    items = [task.draw(random.Random(row_seed(seed, i)), 1)[0] for i in range(count)]
    return [McsbQuestion(**task.example(item, glosses[item.word]).facts) for item in items]


def measure_binding(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[McsbQuestion],
    token_budget: int = TOKEN_BUDGET,
) -> Binding:
    """Ask every question with every rotation of its options.

    Raises ValueError for no questions, DlmError (TokenizerError) for labels that the tokenizer cannot write.
    """
    bounds = {q.labels: bind(tokenizer, q.labels) for q in asked}
    orders = [(q, rotated(q.options, by)) for q in asked for by in range(len(q.options))]
    texts = [prompts.question(q.description, options, q.labels) + bounds[q.labels].gap for q, options in orders]
    chosen = choose(model, tokenizer, texts, [bounds[q.labels].ids for q, _ in orders], token_budget)
    picked = iter(options[k] for (_, options), k in zip(orders, chosen, strict=True))
    said = Counter(q.labels[k] for (q, _), k in zip(orders, chosen, strict=True))
    return Binding(
        **mcsb_scores([[next(picked) for _ in q.options] for q in asked], [q.word for q in asked]),
        labels={label: said[label] / len(chosen) for label in sorted(said)},
        questions=len(asked),
        passes=len(chosen),
    )


def mcsb_scores(picked: Sequence[Sequence[str]], right: Sequence[str]) -> dict[str, float]:
    """Accuracy and steadiness of the options that were picked: for each question, one for each rotation of its options.

    accuracy: over all orders of a question, then over questions. low, high: its 95 % interval, for other questions of
    the same kind (`wilson`). chance: what guessing reaches. ppa: the share of the orders of a question that agree with
    the option picked most often, over questions (Proportion of Plurality Agreement; Robinson et al., "Leveraging Large
    Language Models for Multiple Choice Question Answering", ICLR 2023; there over all permutations). It is 1 for a
    model that means the same option always, even a wrong one, and `chance` for one that always says the same label.
    unchanged: the share of questions whose answer is the same in all orders. Raises ValueError for no questions.
    """
    if not right:
        raise ValueError("no questions: a share of nothing is not a number")
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

    Made for numbers that are 0 or 1; others vary less around the same mean, and for them it is wider than need be. It
    stays within 0 and 1, and does not shrink to a point when all answers are right.
    """
    spread = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    middle, scale = share + Z**2 / (2 * count), 1 + Z**2 / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@torch.no_grad()
def choose(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    candidates: Sequence[Sequence[int]],
    token_budget: int = TOKEN_BUDGET,
) -> list[int]:
    """For each prompt, which of its candidates (token ids) is the likeliest next token; one forward pass a prompt."""
    tokens = [tokenizer(prompt)["input_ids"] for prompt in prompts]

    def run(batch: list[int]) -> list[int]:
        width = max(len(tokens[i]) for i in batch)
        # Right padding: no real token sees it. Only the positions at which some row ends become logits.
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

    with evaluating(model):
        return run_in_batches(run, [len(t) for t in tokens], token_budget)


def rotated(options: Sequence[T], by: int) -> list[T]:
    """The options in their order, but begun at number `by`."""
    return [*options[by:], *options[:by]]
