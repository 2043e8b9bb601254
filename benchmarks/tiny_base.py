"""What the embedded base model can and cannot do: `python benchmarks/tiny_base.py [--only a,b,c,d,e,f]`.

(a) describes its words from a few-shot prompt      (b) cannot bind symbols
(c) knows which word a description means (cloze)    (d) writes question/answer pairs as a teacher
(e) learns (b) with LoRA                            (f) writes a question for a given answer

Prints one line of JSON per ability. Seeded; takes about ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm_trl import tiny
from dlm_trl.asking.words import content_words
from dlm_trl.evaluation.cloze import cloze
from dlm_trl.evaluation.mcsb import McsbQuestion, choose, measure_binding
from dlm_trl.models.generate import generate
from dlm_trl.synth.prompts import pair_messages
from dlm_trl.tasks import prompts as online
from dlm_trl.tasks.mcsb import bind

LABELS = "ABCDE"
LEARNING_RATE = 2e-3


class Bench:
    """The base under test, and one method per ability, named after its letter."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.words: dict[str, str] = json.loads((folder / "words.json").read_text())
        self.held_out = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
        self.nouns, self.seed = sorted(self.words), seed

    def ids(self, messages: list[dict[str, str]]) -> list[int]:
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def describe(self, words: list[str], seed: int, temperature: float = 0.8) -> list[str]:
        prefix = online.description_prefix()
        texts = [prefix + online.description_prompt(word) for word in words]
        written = generate(self.model, self.tokenizer, texts, 24, temperature=temperature, stop=["\n"], seed=seed)
        return [text.strip() for text in written]

    def a_describes(self) -> dict[str, Any]:
        """Share of sampled descriptions whose nearest gloss (tf-idf cosine) is that of their own word."""
        vectorizer = TfidfVectorizer(token_pattern=r"[a-z]+").fit(self.words[w] for w in self.nouns)
        glosses = vectorizer.transform([self.words[w] for w in self.nouns])
        texts = self.describe(self.nouns, self.seed)
        nearest = (vectorizer.transform([t.lower() for t in texts]) @ glosses.T).toarray().argmax(1)
        some = random.Random(self.seed).sample(self.nouns, 20)
        many = self.describe([w for w in some for _ in range(20)], self.seed + 1)
        distinct = [len(set(many[20 * i : 20 * i + 20])) for i in range(len(some))]
        return {
            "nearest_own_gloss": mean(int(n) == i for i, n in enumerate(nearest)),
            "equal_to_gloss": mean(t == self.words[w] for t, w in zip(texts, self.nouns, strict=True)),
            "distinct_of_20": mean(distinct),
            "samples": dict(zip(some[:5], many[:100:20], strict=True)),
        }

    def b_cannot_bind(self) -> dict[str, Any]:
        """MCSB accuracy over the labels and all rotations of the options; the glosses are the descriptions."""
        binding = measure_binding(self.model, self.tokenizer, self.all_glosses())
        answers = {label: round(binding.labels.get(label, 0.0), 4) for label in LABELS}
        return {"accuracy": round(binding.accuracy, 4), "chance": 0.2, "answers": answers}

    def c_cloze(self) -> dict[str, Any]:
        """Share of questions whose correct word is the likeliest of the five options after the description alone."""
        result = cloze(self.model, self.tokenizer, self.all_glosses())
        return {"accuracy": round(result.plain, 4), "normalised": round(result.accuracy, 4), "chance": 0.2}

    def all_glosses(self) -> list[McsbQuestion]:
        """One question per word."""
        items = questions(random.Random(self.seed), self.nouns, self.words, len(self.nouns))
        return [McsbQuestion(word, gloss, options, LABELS) for gloss, options, word in items]

    def label_answers(self, model: Any, items: list[tuple[str, list[str]]]) -> list[int]:
        """Index of the likeliest label of each (description, options), in one order of the options."""
        bound = bind(self.tokenizer, LABELS)
        return choose(
            model, self.tokenizer, [online.question(g, o, LABELS) for g, o in items], [bound.ids] * len(items)
        )

    def d_teaches(self) -> dict[str, Any]:
        """Share of good replies about unseen headwords: n distinct questions that name it, answers from the text."""
        requests = [(row, 1 + i % 3) for i, row in enumerate(self.held_out)]
        prompts = [self.ids(pair_messages(row["prose"], n)) for row, n in requests]
        replies = generate(self.model, self.tokenizer, prompts, 200)
        verdicts = [
            reply_fault(reply, row["headword"], row["prose"], n)
            for reply, (row, n) in zip(replies, requests, strict=True)
        ]
        faults = {f: verdicts.count(f) for f in sorted({v for v in verdicts if v})}
        by_n = {n: mean(not v for v, (_, m) in zip(verdicts, requests, strict=True) if m == n) for n in (1, 2, 3)}
        return {"good_replies": mean(not v for v in verdicts), "by_n": by_n, "faults": faults, "sample": replies[1]}

    def e_can_be_taught(self, steps: int = 200, batch: int = 160) -> dict[str, Any]:
        """Train LoRA on MCSB with the frozen base's descriptions; accuracy on held-out words and distractors."""
        held_out_words = [w for w in self.nouns if hashlib.blake2b(w.encode(), digest_size=2).digest()[0] < 64]
        known = [w for w in self.nouns if w not in held_out_words]
        pool = {w: [t for t in texts if t] for w, texts in self.pool(known + held_out_words, 12).items()}
        rng = random.Random(self.seed)
        torch.manual_seed(self.seed)
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(self.model.name_or_path, dtype=torch.float32), config
        )
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.0
        )
        curve, started = [], time.time()
        for step in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = (
                LEARNING_RATE * min(1.0, step / 20) * min(1.0, max(0.1, (steps - step) / (0.3 * steps)))
            )
            items = questions(rng, known, pool, batch)
            texts = [online.question(g, o, LABELS) for g, o, _ in items]
            coded = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
            last = coded["attention_mask"].sum(1) - 1
            with torch.autocast("cpu", torch.bfloat16):
                hidden = model.base_model.model.model(**coded).last_hidden_state[torch.arange(batch), last]
                logits = model.base_model.model.lm_head(hidden)
            target = [self.tokenizer.encode(f" {LABELS[o.index(w)]}", add_special_tokens=False)[0] for _, o, w in items]
            torch.nn.functional.cross_entropy(logits.float(), torch.tensor(target)).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 20 == 0:
                model.eval()
                tests = questions(random.Random(7), held_out_words, pool, 300)
                answers = self.label_answers(model, [(g, o) for g, o, _ in tests])
                curve.append((step, mean(o[k] == w for (_, o, w), k in zip(tests, answers, strict=True))))
                print(
                    json.dumps(
                        {"e_step": step, "held_out_accuracy": curve[-1][1], "seconds": round(time.time() - started)}
                    ),
                    flush=True,
                )
                model.train()
        return {
            "held_out_accuracy": curve[-1][1],
            "curve": curve,
            "words_held_out": len(held_out_words),
            "questions_per_step": batch,
        }

    def pool(self, words: list[str], count: int) -> dict[str, list[str]]:
        """`count` descriptions per word by the frozen base, without those that contain the word."""
        texts = self.describe([w for w in words for _ in range(count)], self.seed + 2)
        by_word = {w: texts[count * i : count * (i + 1)] for i, w in enumerate(words)}
        return {
            w: [t for t in ts if not re.search(rf"\b{w}", t.lower())] or [self.words[w]] for w, ts in by_word.items()
        }

    def f_asks(self) -> dict[str, Any]:
        """Questions for a span: does the base, reading the text, answer with the span? Is it a reference question?"""
        rows = [(row["prose"], *random.Random(i).choice(row["pairs"])) for i, row in enumerate(self.held_out)]
        prompts = [self.ids(online.span_question_messages(prose, span)) for prose, _, span in rows]
        written = [q.strip() for q in generate(self.model, self.tokenizer, prompts, 40)]
        checks = [
            self.ids(online.span_check_messages(prose, q)) for (prose, _, _), q in zip(rows, written, strict=True)
        ]
        answers = [text.strip() for text in generate(self.model, self.tokenizer, checks, 40)]
        fitting = [
            any(q == other and x == span for other, x in row["pairs"])
            for q, (_, _, span), row in zip(written, rows, self.held_out, strict=True)
        ]
        return {
            "span_comes_back": mean(a == span for a, (_, _, span) in zip(answers, rows, strict=True)),
            "is_a_reference_question": mean(fitting),
            "samples": [
                {"span": s, "question": q, "answer": a}
                for (_, _, s), q, a in list(zip(rows, written, answers, strict=True))[:4]
            ],
        }


def mean(values: Any) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4)


def questions(
    rng: random.Random, words: list[str], glosses: dict[str, Any], count: int
) -> list[tuple[str, list[str], str]]:
    """(description, five options, answer) each. `glosses` has one text per word, or several to draw from."""
    items = []
    for i in range(count):
        word = words[i] if count == len(words) else rng.choice(words)
        options = [*rng.sample([w for w in words if w != word], 4), word]
        rng.shuffle(options)
        gloss = glosses[word]
        items.append((gloss if isinstance(gloss, str) else rng.choice(gloss), options, word))
    return items


def reply_fault(reply: str, headword: str, prose: str, n: int) -> str | None:
    """What is wrong with a teacher's reply, or None."""
    try:
        pairs = [(str(p["question"]), str(p["answer"])) for p in json.loads(reply)]
    except (ValueError, TypeError, KeyError):
        return "not the requested JSON"
    if len(pairs) != n or len({q for q, _ in pairs}) != n:
        return "not n distinct questions"
    if not all(headword.lower() in q.lower() for q, _ in pairs):
        return "headword missing in a question"
    for _, answer in pairs:
        words = content_words(answer)
        if not words or not words <= content_words(prose):
            return "answer not from the paragraph"
        if words == content_words(prose):
            return "answer is the whole paragraph"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="folder of the model (default: the embedded one)")
    parser.add_argument("--only", default="a,b,c,d,e,f", help="abilities to measure (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="write all results to this file")
    args = parser.parse_args()
    bench = Bench(args.model or tiny.path(), args.seed)
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "seed": args.seed,
        "parameters": bench.model.num_parameters(),
    }
    for name in ("a_describes", "b_cannot_bind", "c_cloze", "d_teaches", "e_can_be_taught", "f_asks"):
        if name[0] in args.only.split(","):
            results[name] = getattr(bench, name)()
            print(json.dumps({name: results[name]}), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
