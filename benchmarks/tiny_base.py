"""What the embedded base model can and cannot do: `python benchmarks/tiny_base.py [--only a,b,c,d,e,f]`.

(a) describes its words from a few-shot prompt      (b) cannot bind symbols
(c) knows which word a description means (cloze)    (d) writes question/answer pairs as a teacher
(e) can be taught (b) by LoRA                       (f) writes a question for a given answer

Prints one line of JSON an ability; `--json FILE` keeps them together. Seeded; about ten minutes on 2 cores.
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
from dlm_trl.evaluation.cloze import cloze
from dlm_trl.evaluation.mcsb import McsbQuestion, choose, measure_binding
from dlm_trl.models.generate import generate
from dlm_trl.synth.prompts import pair_messages
from dlm_trl.synth.words import content_words
from dlm_trl.tasks import prompts as online
from dlm_trl.tasks.mcsb import bind

LABELS = "ABCDE"
LEARNING_RATE = 2e-3


class Bench:
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
        found = generate(self.model, self.tokenizer, texts, 24, temperature=temperature, stop=["\n"], seed=seed)
        return [text.strip() for text in found]

    def a_describes(self) -> dict[str, Any]:
        """Share of sampled descriptions whose nearest gloss of all (tf-idf cosine) is their own word's."""
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
        """MCSB accuracy restricted to the labels, over all rotations of the options; glosses as descriptions."""
        found = measure_binding(self.model, self.tokenizer, self.all_glosses())
        said = {label: round(found.labels.get(label, 0.0), 4) for label in LABELS}
        return {"accuracy": round(found.accuracy, 4), "chance": 0.2, "answers": said}

    def c_cloze(self) -> dict[str, Any]:
        """Share of questions whose right word is the likeliest of its five options after the description alone."""
        found = cloze(self.model, self.tokenizer, self.all_glosses())
        return {"accuracy": round(found.plain, 4), "normalised": round(found.accuracy, 4), "chance": 0.2}

    def all_glosses(self) -> list[McsbQuestion]:
        """A question about every word."""
        items = questions(random.Random(self.seed), self.nouns, self.words, len(self.nouns))
        return [McsbQuestion(word, gloss, options, LABELS) for gloss, options, word in items]

    def label_answers(self, model: Any, asked: list[tuple[str, list[str]]]) -> list[int]:
        """Index of the likeliest label of each (description, options), asked once."""
        bound = bind(self.tokenizer, LABELS)
        return choose(
            model, self.tokenizer, [online.question(g, o, LABELS) for g, o in asked], [bound.ids] * len(asked)
        )

    def d_teaches(self) -> dict[str, Any]:
        """Replies on unseen headwords with n distinct questions that name them and answers from the paragraph."""
        asked = [(row, 1 + i % 3) for i, row in enumerate(self.held_out)]
        prompts = [self.ids(pair_messages(row["prose"], n)) for row, n in asked]
        replies = generate(self.model, self.tokenizer, prompts, 200)
        verdicts = [
            reply_fault(reply, row["headword"], row["prose"], n) for reply, (row, n) in zip(replies, asked, strict=True)
        ]
        faults = {f: verdicts.count(f) for f in sorted({v for v in verdicts if v})}
        by_n = {n: mean(not v for v, (_, m) in zip(verdicts, asked, strict=True) if m == n) for n in (1, 2, 3)}
        return {"good_replies": mean(not v for v in verdicts), "by_n": by_n, "faults": faults, "sample": replies[1]}

    def e_can_be_taught(self, steps: int = 200, batch: int = 160) -> dict[str, Any]:
        """LoRA on MCSB with descriptions by the frozen base; accuracy on words kept out, distractors too."""
        kept_out = [w for w in self.nouns if hashlib.blake2b(w.encode(), digest_size=2).digest()[0] < 64]
        known = [w for w in self.nouns if w not in kept_out]
        pool = {w: [t for t in texts if t] for w, texts in self.pool(known + kept_out, 12).items()}
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
                tests = questions(random.Random(7), kept_out, pool, 300)
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
            "words_kept_out": len(kept_out),
            "questions_a_step": batch,
        }

    def pool(self, words: list[str], count: int) -> dict[str, list[str]]:
        """`count` descriptions a word by the frozen base, without those that contain the word."""
        texts = self.describe([w for w in words for _ in range(count)], self.seed + 2)
        found = {w: texts[count * i : count * (i + 1)] for i, w in enumerate(words)}
        return {w: [t for t in ts if not re.search(rf"\b{w}", t.lower())] or [self.words[w]] for w, ts in found.items()}

    def f_asks(self) -> dict[str, Any]:
        """Questions for a span: asked back with the paragraph, does the span return? Is it a reference question?"""
        rows = [(row["prose"], *random.Random(i).choice(row["pairs"])) for i, row in enumerate(self.held_out)]
        prompts = [self.ids(online.span_question_messages(prose, span)) for prose, _, span in rows]
        asked = [q.strip() for q in generate(self.model, self.tokenizer, prompts, 40)]
        checks = [self.ids(online.span_check_messages(prose, q)) for (prose, _, _), q in zip(rows, asked, strict=True)]
        back = [text.strip() for text in generate(self.model, self.tokenizer, checks, 40)]
        fitting = [
            any(q == other and x == span for other, x in row["pairs"])
            for q, (_, _, span), row in zip(asked, rows, self.held_out, strict=True)
        ]
        return {
            "span_comes_back": mean(b == span for b, (_, _, span) in zip(back, rows, strict=True)),
            "is_a_reference_question": mean(fitting),
            "samples": [
                {"span": s, "question": q, "back": b}
                for (_, _, s), q, b in list(zip(rows, asked, back, strict=True))[:4]
            ],
        }


def mean(values: Any) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4)


def questions(
    rng: random.Random, words: list[str], glosses: dict[str, Any], count: int
) -> list[tuple[str, list[str], str]]:
    """(description, five options, answer); `glosses` gives one text a word, or a list to draw from."""
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
        return "not the JSON asked for"
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
    parser.add_argument("--only", default="a,b,c,d,e,f", help="which abilities (default: %(default)s)")
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
