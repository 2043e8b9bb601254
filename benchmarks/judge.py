"""Which wrong pairs the judge finds: `python benchmarks/judge.py [--judge hf:smollm2-135m]`.

`benchmarks/data/pairs.jsonl` has pairs that real teachers wrote about four documents (the demo's notes, a technical
reference, notes of a service, and notes in German), each labelled right or wrong by hand, with the reason. The right
ones are also damaged in five ways:

sibling     the answer to another question about this prose
truncated   the first half of the answer's words
close       a number or word of the answer replaced by another one of the prose
shuffled    the answer to a question about other prose
echo        the question as its answer

Prints the AUC of each score against each kind of wrong pair (1: every right pair scores higher; 0.5: chance), and how
many right and wrong pairs the default filter keeps and drops, with the checks of words alone and with the judge. The
limits were set with `--document notes.dlm` for the pairs of recipes/notes.dlm; the other documents test them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

from dlm_trl.asking import questions
from dlm_trl.notes import DlmError, parse, read
from dlm_trl.synth import answers
from dlm_trl.synth.echo import EchoCheck
from dlm_trl.synth.judge import Judge, open_judge
from dlm_trl.synth.pairs import Candidate, QAPair, Scores
from dlm_trl.synth.prompts import TEMPLATES
from dlm_trl.synth.verdict import limits, verdict

HERE = Path(__file__).parent
NO_NOTES = "---\ndlm_id: 0000000000000000000000000A\nbase_model: tiny\n---\n"
SCORE_NAMES = ("margin", "grounding", "overlap", "ending", "novelty")
KINDS = ("sibling", "truncated", "close", "shuffled", "echo")
QUANTILES = (0.05, 0.1, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", default="hf:smollm2-135m", help="hf:<id or folder> (%(default)s)")
    parser.add_argument("--document", nargs="*", help="only the pairs about these")
    parser.add_argument("--pairs", type=int, default=60, help="right pairs to damage (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        judge = open_judge(parse(NO_NOTES), options.judge)
    except DlmError as error:
        parser.error(str(error))
    labelled = read_pairs(options.document)
    rng = random.Random(options.seed)
    right = [candidate for candidate, is_right, _ in labelled if is_right]
    damaged = damage(rng.sample(right, min(options.pairs, len(right))), right, rng)
    print(f"judge {judge.name}, {len(labelled)} labelled pairs, {len(right)} of them right, seed {options.seed}\n")
    show_areas(judge, labelled, damaged)


def read_pairs(only: Sequence[str] | None) -> list[tuple[Candidate, bool, str]]:
    """The labelled pairs, each with the prose it is about, whether it is right, and its document."""
    prose: dict[tuple[str, int], str] = {}
    pairs = []
    for line in (HERE / "data/pairs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = row["document"]
        if only and name not in only:
            continue
        if (name, row["section"]) not in prose:
            path = HERE.parent / "recipes/notes.dlm" if name == "notes.dlm" else HERE / "data" / name
            sections = [section for section in read(path).sections if section.kind == "prose"]
            prose |= {(name, i): section.content.strip() for i, section in enumerate(sections)}
        text = prose[name, row["section"]]
        candidate = Candidate(QAPair(row["question"], row["answer"]), "", "extraction", text, "", 0, "")
        pairs.append((candidate, row["right"], name))
    return pairs


def damage(some: list[Candidate], right: list[Candidate], rng: random.Random) -> dict[str, list[Candidate]]:
    """These pairs with each kind of wrong answer, where there is one."""
    wrong: dict[str, list[Candidate]] = defaultdict(list)
    for own in some:
        answer = own.pair.answer
        words = answer.split()
        others = [c.pair.answer for c in right if c.prose != own.prose]
        siblings = [
            c.pair.answer
            for c in right
            if c.prose == own.prose and c.pair.answer not in answer and answer not in c.pair.answer
        ]
        found = {
            "sibling": rng.choice(siblings) if siblings else None,
            "truncated": " ".join(words[: len(words) // 2]),
            "close": close_to(own, rng),
            "shuffled": rng.choice(others) if others else None,
            "echo": own.pair.question.rstrip("?"),
        }
        for kind, text in found.items():
            if text:
                wrong[kind].append(replace(own, pair=QAPair(own.pair.question, text)))
    return wrong


def close_to(own: Candidate, rng: random.Random) -> str | None:
    """The answer with one number, or else one long word, replaced by another one of the prose."""
    answer = own.pair.answer
    for pattern in (r"\d+", r"[^\W\d_]{5,}"):
        places = [m for m in re.finditer(pattern, answer) if m.group() not in own.pair.question]
        others = sorted({word for word in re.findall(pattern, own.prose) if word not in answer})
        if places and others:
            place = rng.choice(places)
            return answer[: place.start()] + rng.choice(others) + answer[place.end() :]
    return None


def show_areas(judge: Judge, labelled: list[tuple[Candidate, bool, str]], damaged: dict[str, list[Candidate]]) -> None:
    scored = list(zip(labelled, judge.score([candidate for candidate, _, _ in labelled]), strict=True))
    right = [scores for (_, is_right, _), scores in scored if is_right]
    wrong = {"labelled wrong": [scores for (_, is_right, _), scores in scored if not is_right]}
    wrong |= {kind: judge.score(damaged[kind]) for kind in KINDS if damaged[kind]}
    print("| AUC against the right pairs | pairs |" + "".join(f" {name} |" for name in SCORE_NAMES))
    print("|---|---:|" + "---:|" * len(SCORE_NAMES))
    for kind, scores in wrong.items():
        areas = [area(right, scores, name) for name in SCORE_NAMES]
        print(f"| {kind} | {len(scores)} |" + "".join(f" {value:.2f} |" for value in areas))
    print("\n| of the right pairs |" + "".join(f" {name} |" for name in SCORE_NAMES))
    for share in QUANTILES:
        values = [quantile(right, name, share) for name in SCORE_NAMES]
        print(f"| {share:.0%} are below |" + "".join(f" {value:.2f} |" for value in values))
    print("\n| pairs | right | kept by the checks of words | and the judge | wrong | dropped by words | by both |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    names = sorted({name for _, _, name in labelled})
    for name in [*names, "all"]:
        show_filter(name, [item for item in scored if name in ("all", item[0][2])])
    for kind in KINDS:
        if damaged[kind]:
            show_filter(kind, [((c, False, kind), s) for c, s in zip(damaged[kind], wrong[kind], strict=True)])


def show_filter(name: str, scored: Sequence[tuple[tuple[Candidate, bool, str], Scores]]) -> None:
    counts = {True: [0, 0, 0], False: [0, 0, 0]}  # pairs, kept by the checks of words, and by the judge
    for (candidate, is_right, _), scores in scored:
        by_words = passes_words(candidate)
        counts[is_right][0] += 1
        counts[is_right][1] += by_words
        counts[is_right][2] += by_words and verdict(scores, limits(candidate)) is None
    (right, words, both), (wrong, bad_words, bad_both) = counts[True], counts[False]
    print(
        f"| {name} | {right} | {share_of(words, right)} | {share_of(both, right)} "
        f"| {wrong} | {share_of(wrong - bad_words, wrong)} | {share_of(wrong - bad_both, wrong)} |"
    )


def passes_words(candidate: Candidate) -> bool:
    """Whether the funnel's checks without a judge let the pair pass."""
    pair = candidate.pair
    echo = EchoCheck(TEMPLATES["extraction"]).echoes(pair, candidate.prose)
    return not (questions.needs_text(pair.question) or answers.problem(pair, candidate.prose, "extraction") or echo)


def share_of(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def area(right: list[Scores], wrong: list[Scores], name: str) -> float:
    values: list[Any] = [getattr(scores, name) for scores in right + wrong]
    return float(roc_auc_score([1] * len(right) + [0] * len(wrong), values))


def quantile(right: list[Scores], name: str, share: float) -> float:
    values = sorted(getattr(scores, name) for scores in right)
    return float(values[int(share * len(values))])


if __name__ == "__main__":
    main()
