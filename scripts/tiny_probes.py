"""Small tests for each ability of the tiny base, fast enough to run during training.

Used by `build_tiny_base.py`; `benchmarks/tiny_base.py` has the full tests for the finished model.
"""

from __future__ import annotations

import random

import torch
from tiny_corpus import VALUES, Corpus
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dlm_trl.tasks import prompts

LETTERS = ["A", "B", "C", "D", "E"]


class Probes:
    """Fixed questions; `run(model)` returns the accuracy for each ability."""

    def __init__(self, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, count: int = 100) -> None:
        rng = random.Random(1234)
        self.tokenizer = tokenizer
        self.sets: dict[str, list[tuple[str, list[str], str]]] = {
            name: [] for name in ("cloze", "options", "mcsb", "number_near", "number_far", "facts", "matching", "quiz")
        }
        for _ in range(count):
            options = rng.sample(corpus.nouns, 5)
            i = rng.randrange(5)
            word, gloss = options[i], corpus.words[options[i]]
            numbered = "\n".join(f"{n + 1}) {o}" for n, o in enumerate(options))
            numbers = [str(n + 1) for n in range(5)]
            values = rng.sample(VALUES, 5)
            self.sets["cloze"].append((f"Description: {gloss}\nWord:", options, word))
            self.sets["options"].append((f"Description: {gloss}\n{numbered}\nAnswer:", options, word))
            self.sets["mcsb"].append((prompts.question(gloss, options, LETTERS), LETTERS, LETTERS[i]))
            self.sets["number_near"].append(
                (f"{numbered}\n{options[i - 1]} {numbers[i - 1]}\n{word}", numbers, numbers[i])
            )
            self.sets["number_far"].append((f"{numbered}\nWhich number is {word}?", numbers, numbers[i]))
            self.sets["matching"].append((f"{numbered}\nDescription: {gloss}\nNumber:", numbers, numbers[i]))
            self.sets["quiz"].append((f"Description: {gloss}\n{numbered}\nNumber:", numbers, numbers[i]))
            table = "\n".join(f"{o}: {v}" for o, v in zip(options, values, strict=True))
            self.sets["facts"].append((f"{table}\nDescription: {gloss}\nValue:", values, values[i]))

    def run(self, model: LlamaForCausalLM) -> dict[str, float]:
        """For each ability, the share of questions with the right answer as the likeliest of five single tokens."""
        model.eval()
        result = {}
        for name, items in self.sets.items():
            coded = self.tokenizer(
                [text for text, _, _ in items], return_tensors="pt", padding=True, padding_side="right"
            )
            with torch.no_grad():
                logits = model(**coded, use_cache=False).logits
            logits = logits[torch.arange(len(items)), coded["attention_mask"].sum(1) - 1]
            right = 0
            for row, (_, candidates, answer) in zip(logits, items, strict=True):
                ids = [self.tokenizer.encode(f" {c}", add_special_tokens=False)[0] for c in candidates]
                right += candidates[int(row[ids].argmax())] == answer
            result[name] = round(right / len(items), 3)
        model.train()
        return result
