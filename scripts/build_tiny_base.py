"""Build the embedded base model in `dlm_trl/tiny/`: word list, tokenizer, weights and log.

    apt-get install wordnet-base
    python scripts/build_tiny_base.py

Everything follows from one seed: choose the words, train a BPE tokenizer that has them as single tokens, and train a
Llama on the documents of `tiny_corpus.py`. `build_log.jsonl` records the corpus hash, tokens seen, loss and a score for
each ability. Initialisation: mimetic (Trockman & Kolter, ICML 2023). Optimiser: Muon for the matrices (Jordan et al.,
2024), AdamW for the rest.

The second half of the layers shares the weights of the first (Universal Transformers, Dehghani et al., ICLR 2019), and
answers have a second loss at the middle layer. So the first half can recall a word from its description, and the second
half can look it up in a list as if the word had been given. Without shared weights, training didn't learn that.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tiny_corpus import VALUES, Corpus, Doc
from tiny_paragraphs import definition_paragraph
from tiny_probes import Probes
from tiny_tokenizer import SPACE, build_tokenizer
from tiny_wordnet import Synset, choose_words, decent, held_out, noun_senses, read_synsets
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from wonderwords import RandomWord
from wonderwords.random_word import Defaults

from dlm_trl.tasks.prompts import FEW_SHOT

# The curriculum: (end of the stage in tokens, tokens per step, share of each document family). A document has 25
# (letters) to 190 (teacher) tokens. List look-ups come first and alone: mixed with the rest they stayed at chance for
# 3 M tokens, but alone the simplest one is learned in 150 steps, and the harder ones build on it.
STAGES = [
    (0.36e6, 2048, {"echo": 1.0}),
    (1.6e6, 2048, {
        "drill": 36.0, "lookup": 12.0, "glossary": 6.0, "riddle": 14.0, "choice": 6.0, "matching": 14.0, "letters": 2.0,
    }),
    (5.0e6, 4096, {
        "drill": 6.0, "lookup": 16.0, "matching": 22.0, "quiz": 20.0, "facts": 10.0, "choice": 6.0, "riddle": 5.0,
        "glossary": 8.0, "letters": 3.0, "general": 2.0, "teacher": 6.0,
    }),
    (10.27e6, 4096, {
        "matching": 6.0, "quiz": 9.0, "facts": 6.0, "lookup": 6.0, "choice": 4.0, "riddle": 3.0, "glossary": 14.0,
        "letters": 3.0, "general": 5.0, "teacher": 28.0, "reading": 18.0, "closed_book": 4.0,
    }),
    (13.23e6, 4096, {
        "matching": 6.0, "quiz": 9.0, "guess": 9.0, "lookup": 6.0, "choice": 4.0, "riddle": 3.0, "glossary": 14.0,
        "letters": 3.0, "general": 5.0, "teacher": 28.0, "reading": 18.0, "closed_book": 4.0,
    }),
    (math.inf, 4096, {
        "matching": 4.0, "quiz": 7.0, "guess": 24.0, "lookup": 3.0, "choice": 3.0, "riddle": 3.0, "glossary": 12.0,
        "letters": 2.0, "general": 4.0, "teacher": 36.0, "reading": 16.0, "closed_book": 4.0,
    }),
]  # fmt: skip
# The documents to train the tokenizer on: some of each family.
SAMPLE = {
    "drill": 3.0, "lookup": 18.0, "facts": 12.0, "choice": 15.0, "riddle": 5.0, "glossary": 12.0, "letters": 4.0,
    "general": 6.0, "teacher": 15.0, "reading": 10.0, "closed_book": 5.0,
}  # fmt: skip
ROW = 256
HALFWAY_WEIGHT = 0.5
# The token after a pair in a JSON list tells whether another pair follows. Only here the model has to count pairs.
STRESSED, STRESS = ('"},', '"}'), 8.0
IGNORE = -100


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("dlm_trl/tiny"), help="folder for the model (default: %(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/tiny"), help="folder for checkpoints and the log of the run"
    )
    parser.add_argument("--tokens", type=float, default=16e6, help="tokens to train on (default: %(default).0e)")
    parser.add_argument("--words", type=int, default=400, help="number of nouns that are single tokens")
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument(
        "--distinct", type=int, default=3, help="number of layers with distinct weights; the others share them"
    )
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--intermediate", type=int, default=384)
    parser.add_argument("--muon-lr", type=float, default=4e-3)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument(
        "--resume",
        type=Path,
        default=None,
        help="continue from this checkpoint with the tokenizer in --out; the optimisers start fresh",
    )
    parser.add_argument("--seen", type=int, default=0, help="tokens seen by the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Source:
    """The data from WordNet and wonderwords: chosen words, other nouns, training synsets and held-out synsets."""

    def __init__(self, count: int) -> None:
        bad = frozenset(RandomWord(profanities=Defaults.PROFANITIES)._categories["profanities"])
        synsets, senses = read_synsets(), noun_senses()
        synsets = {k: s for k, s in synsets.items() if decent(" ".join([s.gloss, *s.words]), bad)}
        for synset in synsets.values():
            synset.examples = [e for e in synset.examples if decent(e, bad)]
        self.all_nouns = list(RandomWord(noun=Defaults.NOUNS)._categories["noun"])
        nouns = [n for n in self.all_nouns if n in senses and senses[n][0] in synsets and n not in dict(FEW_SHOT)]
        self.words = choose_words(nouns, synsets, senses, count)
        self.others = {n: synsets[senses[n][0]].gloss for n in nouns if n not in self.words}
        self.others = {n: g for n, g in self.others.items() if 3 <= len(g.split()) <= 16}
        self.training = [s for s in synsets.values() if not held_out(s.key)]
        self.held_out = [s for s in synsets.values() if held_out(s.key)]


Coded = tuple[list[int], list[int], list[int], list[float]]


def encode(docs: list[Doc], tokenizer: PreTrainedTokenizerFast) -> list[Coded]:
    """For each document: token ids after a BOS, labels (IGNORE in silent ranges), middle-layer labels, weights."""
    stressed = {tokenizer.backend_tokenizer.token_to_id(text) for text in STRESSED}
    out = []
    for doc, coded in zip(docs, tokenizer.backend_tokenizer.encode_batch([d.text for d in docs]), strict=True):
        labels, middle = list(coded.ids), [IGNORE] * len(coded.ids)
        if doc.silent:
            quiet = np.zeros(len(doc.text) + 1, bool)
            for start, end in doc.silent:
                quiet[start:end] = True
            labels = [
                IGNORE if e > s and quiet[s:e].any() else t for t, (s, e) in zip(labels, coded.offsets, strict=True)
            ]
        for at, word in doc.halfway.items():
            token = tokenizer.backend_tokenizer.token_to_id(word.replace(" ", SPACE))
            if token is not None:  # a word of several tokens can't be predicted at one position
                middle[coded.char_to_token(at)] = token
        weights = [doc.weight * (STRESS if token in stressed else 1.0) for token in coded.ids]
        out.append((coded.ids, labels, middle, weights))
    return out


def batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, mixture: dict[str, float], seed: int, rows: int, length: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches of `rows` x `length` tokens, packed with whole documents that don't attend to each other."""
    stream = corpus.stream(seed, mixture)
    waiting: list[Coded] = []
    while True:
        ids = torch.full((rows, length), tokenizer.pad_token_id)
        labels = torch.full((rows, length), IGNORE)
        document = torch.full((rows, length), -1)
        position = torch.zeros((rows, length), dtype=torch.long)
        weight = torch.ones((rows, length))
        middle = torch.full((rows, length), IGNORE)
        for row in range(rows):
            at, number = 0, 0
            while True:
                if len(waiting) < 64:
                    fresh = encode(list(itertools.islice(stream, 512)), tokenizer)
                    waiting += [d for d in fresh if len(d[0]) <= length]
                fit = next((i for i, d in enumerate(waiting[:64]) if len(d[0]) <= length - at), None)
                if fit is None:
                    break
                doc_ids, doc_labels, doc_middle, doc_weights = waiting.pop(fit)
                end = at + len(doc_ids)
                ids[row, at:end] = torch.tensor(doc_ids)
                labels[row, at:end] = torch.tensor(doc_labels)
                labels[row, at] = IGNORE  # nothing predicts a BOS
                document[row, at:end] = number
                weight[row, at:end] = torch.tensor(doc_weights)
                middle[row, at:end] = torch.tensor(doc_middle)
                position[row, at:end] = torch.arange(len(doc_ids))
                at, number = end, number + 1
        yield {
            "ids": ids,
            "labels": labels,
            "document": document,
            "position": position,
            "weight": weight,
            "middle": middle,
        }


def initialise(model: LlamaForCausalLM) -> None:
    """Mimetic initialisation (Trockman & Kolter, ICML 2023): with keys equal to queries, equal tokens attend."""
    width = model.config.hidden_size
    with torch.no_grad():
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
        for layer in set(model.model.layers):
            attention = layer.self_attn
            attention.q_proj.weight.normal_(0, width**-0.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.v_proj.weight.normal_(0, width**-0.5)
            attention.o_proj.weight.normal_(0, 0.5 * width**-0.5)
            layer.mlp.down_proj.weight.mul_(0.5)


def loss_of(model: LlamaForCausalLM, batch: dict[str, torch.Tensor], across: bool = False) -> torch.Tensor:
    """Weighted mean next-token loss in nats. Documents don't attend to each other, unless `across`.

    Answers have a second loss at the middle layer (deep supervision; Lee et al., AISTATS 2015), see `Doc.halfway`.
    Without it, the model only knows a described word in its last layer, with no layer left to look it up.
    """
    length = batch["ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask, position = None, None
    if not across:
        mask = ((batch["document"][:, :, None] == batch["document"][:, None, :]) & causal)[:, None]
        position = batch["position"]
    targets = batch["labels"][:, 1:]
    keep = targets != IGNORE  # compute logits only where there is a loss
    middle = batch["middle"][:, 1:]
    early = middle != IGNORE
    with torch.autocast("cpu", torch.bfloat16):
        output = model.model(
            input_ids=batch["ids"],
            attention_mask=mask,
            position_ids=position,
            use_cache=False,
            output_hidden_states=True,
        )
        logits = model.lm_head(output.last_hidden_state[:, :-1][keep])
        early_logits = model.lm_head(
            model.model.norm(output.hidden_states[len(model.model.layers) // 2][:, :-1][early])
        )
    weight = batch["weight"][:, 1:][keep]
    loss = (F.cross_entropy(logits.float(), targets[keep], reduction="none") * weight).sum() / weight.sum()
    if early.any():
        loss = loss + HALFWAY_WEIGHT * F.cross_entropy(early_logits.float(), middle[early])
    return loss


def unshared(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A copy of the model whose layers don't share weights."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def train(
    model: LlamaForCausalLM, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
) -> dict[str, object]:
    """Train on `args.tokens` tokens, with linear decay over the last third; returns facts for the log."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    probes = Probes(corpus, tokenizer)
    log = (args.work / "log.jsonl").open("a" if args.resume else "w")
    digest, seen, step, started = hashlib.sha256(), args.seen, 0, time.time()
    streams = [
        batches(corpus, tokenizer, mixture, args.seed + number, size // ROW, ROW)
        for number, (_, size, mixture) in enumerate(STAGES)
    ]
    last = STAGES[-1]
    long = batches(corpus, tokenizer, last[2], args.seed + len(STAGES), last[1] // 1024, 1024)
    total: float = 0.0
    while True:
        spent = seen / args.tokens
        if spent >= 1:
            break
        across = spent > 0.5 and step % 8 == 0  # long rows train positions up to the full context
        stage = next(number for number, (until, _, _) in enumerate(STAGES) if seen < until)
        batch = next(long if across else streams[stage])
        scale = min(1.0, (step + 1) / 100) * min(1.0, max(0.02, (1 - spent) / 0.35))
        for optimizer, rate in ((muon, args.muon_lr), (adam, args.adam_lr)):
            optimizer.param_groups[0]["lr"] = rate * scale
        loss = loss_of(model, batch, across)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        digest.update(batch["ids"].numpy().astype("int16").tobytes())
        seen += int((batch["ids"] != tokenizer.pad_token_id).sum())
        total += loss.item()
        step += 1
        if step % 250 == 0:
            line = {
                "step": step,
                "tokens": seen,
                "loss": round(total / 250, 4),
                "minutes": round((time.time() - started) / 60, 1),
                **probes.run(model),
            }
            print(json.dumps(line), flush=True)
            log.write(json.dumps(line) + "\n")
            log.flush()
            total = 0.0
        if step % 500 == 0:
            unshared(model).save_pretrained(args.work / "latest")
    return {
        "steps": step,
        "tokens": seen,
        "corpus_sha256": digest.hexdigest(),
        "minutes": round((time.time() - started) / 60, 1),
        "final": probes.run(model),
    }


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    source = Source(args.words)
    corpus = Corpus(source.words, source.others, source.training)
    if args.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    else:
        sample = [doc.text for doc in itertools.islice(corpus.stream(args.seed + 100, SAMPLE), 60_000)]
        singles = [f" {w}" for w in source.words] + [
            f" {c}" for c in [*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghij0123456789", *VALUES]
        ]
        tokenizer = build_tokenizer(sample, singles, source.all_nouns, args.vocabulary, args.out)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=args.hidden, intermediate_size=args.intermediate,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.heads,
        max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    if args.resume:
        model = LlamaForCausalLM.from_pretrained(args.resume, dtype=torch.float32)
    else:
        model = LlamaForCausalLM(config)
        initialise(model)
    for i in range(args.distinct, args.layers):
        model.model.layers[i] = model.model.layers[i % args.distinct]
    facts = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "words": len(source.words),
        "seed": args.seed,
        "torch": torch.__version__,
    }
    print(json.dumps(facts), flush=True)
    facts |= train(model, corpus, tokenizer, args)
    model = unshared(model)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(args.out)
    (args.out / "words.json").write_text(json.dumps(source.words, indent=0, ensure_ascii=False) + "\n")
    write_held_out(source.held_out, args.out / "held_out.jsonl")
    log = (args.work / "log.jsonl").read_text()
    (args.out / "build_log.jsonl").write_text(json.dumps(facts) + "\n" + log)


def write_held_out(synsets: list[Synset], path: Path, count: int = 200) -> None:
    """Write paragraphs about held-out synsets with their pairs, for `benchmarks/tiny_base.py`."""
    rng = random.Random(4321)
    pool = [s for s in synsets if s.key.endswith("n") and 5 <= len(s.gloss.split()) <= 16 and s.gloss.isascii()]
    with path.open("w") as out:
        for synset in rng.sample(pool, count):
            prose, pairs = definition_paragraph(rng, synset)
            out.write(json.dumps({"headword": synset.words[0], "prose": prose, "pairs": pairs}) + "\n")


if __name__ == "__main__":
    main()
