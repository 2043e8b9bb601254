"""Which duplicates dedup finds, which pairs it drops wrongly, and how fast it is: `python benchmarks/dedup.py`.

Makes pairs of 50 to 3,000 characters from templates and the embedded base's nouns. Two pairs of a template differ in
one noun in the question and another in the answer; the rest is equal, however long.

found          edits of known pairs: one word changed in the question or the answer, a word added in front, case or
               punctuation changed. Found means that the match is the pair that was edited.
false drops    distinct pairs that are taken for duplicates of each other
speed          400 pairs of 400 characters, against the method of the reference (`document-language-model` 0.10.0),
               reimplemented here: the same question, or a difflib ratio above 0.95, compared with all earlier pairs
growth         microseconds per pair up to 100,000 pairs, and for the worst case: 10,000 questions of one form that are
               answered "Yes." or "No.", because pairs with the same answer are compared with each other

Seeded; CPU time of one core, without the imports. Takes several minutes, most of them for the reference.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import resource
import string
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from time import process_time

from dlm_trl import tiny
from dlm_trl.synth.dedup import Index
from dlm_trl.synth.pairs import QAPair

NOUNS = sorted(word for word in json.loads((tiny.path() / "words.json").read_text("utf-8")) if word.isalpha())
TEMPLATES = [
    ("What is the capital of {0}?", "The capital of {0} is {1}."),
    ("Which material is {0} made of?", "It is made of {1}."),
    ("Who looks after the {0} in the town?", "The {1} does, and has done so for years."),
    ("How is {0} different from what came before it?", "It needs far less {1} than its forerunner."),
    ("Where should one keep {0}?", "Next to the {1}, away from the light."),
    ("Why does {0} matter to those who live there?", "Because without it there would be no {1}."),
    ("Name the tool that is used with {0}.", "{1}"),
    ("In which year, and by whom, was {0} first described?", "In 1815, by a friend of the {1}."),
]
LEADS = ["So,", "Briefly,", "Please:", "Well,", "Indeed,", "Then", "Today"]
SIZES = [1_000, 10_000, 100_000]


def main() -> None:
    """Measure and print all four claims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4_000, help="number of distinct pairs (default: %(default)s)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=SIZES,
        help="numbers of pairs to measure growth with",
    )
    parser.add_argument("--no-reference", action="store_true", help="skip the slow comparison with the reference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()

    rng = random.Random(arguments.seed)
    result: dict[str, object] = {"found": {}}
    if not arguments.no_reference:
        pairs = [pair for _ in range(50) for pair in distinct_pairs(rng, 8, 400, 400)]  # no two with the same padding
        build_index(pairs[:1])  # imports
        seconds = {}
        for name, method in (("reference", reference), ("ours", build_index)):
            gc.collect()
            start = process_time()
            method(pairs)
            seconds[name] = process_time() - start
        ratio = seconds["reference"] / seconds["ours"]
        result["speed"] = {**seconds, "ratio": ratio}
        print(
            "400 pairs of 400 characters: "
            f"reference {seconds['reference']:.1f} s, ours {seconds['ours']:.3f} s, {ratio:.0f}x"
        )

    pairs = list(distinct_pairs(rng, arguments.pairs, 50, 3_000))
    index, dropped = build_index(pairs)
    result["false drops"] = dropped / len(pairs)
    print(f"false drops          {dropped} of {len(pairs):,}, {dropped / len(pairs):.2%}")
    for kind in EDITS:
        matches = sum(
            (match := index.nearest(edited(rng, pair, kind))) is not None and match.name == str(i)
            for i, pair in enumerate(pairs)
        )
        result["found"][kind] = matches / len(pairs)
        print(f"found: {kind:<20} {matches / len(pairs):.2%}")

    result["growth"] = {}
    sizes = sorted(arguments.sizes)
    for corpus, found in (
        ("pairs", growth(distinct_pairs(rng, sizes[-1], 50, 400), sizes)),
        ("yes or no", growth(yes_or_no(rng, 10_000), [10_000])),
    ):
        for size, microseconds, megabytes, dropped in found:
            name = f"{size:,} {corpus}"
            result["growth"][name] = {"microseconds": microseconds, "megabytes": megabytes}
            print(
                f"{name:<20} {microseconds:.0f} µs per pair, {dropped} dropped, index {megabytes:,.0f} MB", flush=True
            )
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory          {megabytes:,.0f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2), "utf-8")


def growth(pairs: Iterator[QAPair], sizes: list[int]) -> Iterator[tuple[int, float, float, int]]:
    """Looks up and adds one pair after the other. At each size: microseconds per pair so far, MB, pairs dropped."""
    index, known, dropped, seconds = Index(), 0, 0, 0.0
    gc.collect()
    before = resident()
    for size in sizes:
        while known < size:
            chunk = list(islice(pairs, min(1000, size - known)))  # made outside the clock
            start = process_time()
            for pair in chunk:
                dropped += index.nearest(pair) is not None
                index.add(pair, str(known))
                known += 1
            seconds += process_time() - start
        yield size, seconds / known * 1e6, resident() - before, dropped


def resident() -> float:
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def distinct_pairs(rng: random.Random, count: int, shortest: int, longest: int) -> Iterator[QAPair]:
    """Pairs whose lengths are log-uniform. Within a template, a slot never gets the same noun twice."""
    padding = [" ".join(rng.choices(NOUNS, k=600)) for _ in TEMPLATES]
    per_template = -(-count // len(TEMPLATES))
    slots = [[iter(names(rng, per_template)) for _ in range(2)] for _ in TEMPLATES]
    for i in range(count):
        t = i % len(TEMPLATES)
        values = [next(slot) for slot in slots[t]]
        pair = QAPair(*(text.format(*values) for text in TEMPLATES[t]))
        length = round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
        yield padded(pair, padding[t], length, rng.random())


def names(rng: random.Random, count: int) -> list[str]:
    """`count` different names: single nouns first, then two together."""
    unique: dict[str, None] = dict.fromkeys(rng.sample(NOUNS, min(count, len(NOUNS))))
    while len(unique) < count:
        unique[" ".join(rng.sample(NOUNS, 2))] = None
    return list(unique)


def padded(pair: QAPair, padding: str, length: int, share: float) -> QAPair:
    """The pair, padded to `length` characters with text that all pairs of its template share.

    `share` times half of the text goes before the question, the rest after the answer.
    """
    missing = length - len(pair.question) - len(pair.answer)
    if missing <= 0:
        return pair
    before = round(missing * share * 0.5)
    return QAPair(f"{padding[:before]} {pair.question}".strip(), f"{pair.answer} {padding[: missing - before]}".strip())


def yes_or_no(rng: random.Random, count: int) -> Iterator[QAPair]:
    """Questions of one form that differ in two names; only two answers."""
    for a, b in zip(names(rng, count), names(rng, count), strict=True):
        yield QAPair(f"Is it true that {a} is a kind of {b}?", rng.choice(["Yes.", "No."]))


def change_word(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    at = rng.randrange(len(words))
    old = words[at].strip(string.punctuation)
    # Reversed, so that it isn't a noun and the question can't become another pair's.
    words[at] = words[at].replace(old, rng.choice(NOUNS)[::-1])
    return " ".join(words)


def change_punctuation(rng: random.Random, text: str) -> str:
    changed = text.rstrip(".?") + rng.choice(["", "!", " .", "…", "?"])
    return changed if changed != text else f"“{text}”"


EDITS = {
    "word in question": lambda rng, pair: QAPair(change_word(rng, pair.question), pair.answer),
    "word in answer": lambda rng, pair: QAPair(pair.question, change_word(rng, pair.answer)),
    "leading word": lambda rng, pair: rng.choice(
        [
            QAPair(f"{(lead := rng.choice(LEADS))} {pair.question}", pair.answer),
            QAPair(pair.question, f"{lead} {pair.answer}"),
        ]
    ),
    "case": lambda rng, pair: QAPair(*(rng.choice([text.upper(), text.lower()]) for text in pair)),
    "punctuation": lambda rng, pair: QAPair(*(change_punctuation(rng, text) for text in pair)),
}


def edited(rng: random.Random, pair: QAPair, kind: str) -> QAPair:
    """The pair after an edit of this kind (a key of EDITS)."""
    return EDITS[kind](rng, pair)


def build_index(pairs: list[QAPair]) -> tuple[Index, int]:
    """Our method: the pairs indexed by their numbers, and how many were taken for duplicates of an earlier pair."""
    index, dropped = Index(), 0
    for i, pair in enumerate(pairs):
        dropped += index.nearest(pair) is not None
        index.add(pair, str(i))
    return index, dropped


def reference(pairs: list[QAPair]) -> list[QAPair]:
    """The reference's method: compare each pair with every pair kept before."""
    kept: list[tuple[str, str, QAPair]] = []
    for pair in pairs:
        question, answer = (" ".join(text.strip().lower().split()) for text in pair)
        joined = f"{question}\n{answer}"
        if not any(question == other or SequenceMatcher(a=joined, b=text).ratio() > 0.95 for other, text, _ in kept):
            kept.append((question, joined, pair))
    return [pair for _, _, pair in kept]


if __name__ == "__main__":
    main()
