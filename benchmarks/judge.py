"""Which wrong answers the judge's scores detect: `python benchmarks/judge.py [--judge hf:…] [--notes FILE]`.

Compares true answers with four kinds of wrong ones to the same question about the same prose:

shuffled    the answer to a random question about other prose
sibling     the answer to another question about this prose
truncated   the first half of the true answer's words
invented    the answer to the most similar question about other prose; doesn't occur in this prose

The questions are those about words that the embedded base never saw (`dlm_trl/tiny/held_out.jsonl`), or a document's
own, each with the prose section before it. Prints the AUC of margin, grounding and overlap (1: every true answer scores
above every wrong one; 0.5: chance), and the share of answers that passes the default filter and several minimum
groundings. The default of `--min-grounding` is the largest multiple of 0.1 that at least 95 % of the true answers reach
with the embedded base as judge. A judge that knows the subject gains less from the prose and needs a smaller minimum;
the last line prints it. Seeded; takes three minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from math import floor
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz, process
from sklearn.metrics import roc_auc_score

from dlm_trl import tiny
from dlm_trl.notes import DlmError, Document, parse, read
from dlm_trl.synth.judge import Judge, open_judge, verdict
from dlm_trl.synth.pairs import Candidate, QAPair, Scores

NO_NOTES = "---\ndlm_id: 0000000000000000000000000A\nbase_model: tiny\n---\n"
KEPT = 0.95
MINIMA = (-0.5, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)  # of the grounding, in nats per token
SCORE_NAMES = ("margin", "grounding", "overlap")


def main() -> None:
    """Build the answers, score them, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", default="hf:tiny", help="self (with --notes) or hf:<id or folder> (%(default)s)")
    parser.add_argument("--notes", type=Path, help="use the pairs of this document")
    parser.add_argument("--pairs", type=int, help="maximum number of true answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all results to this file")
    args = parser.parse_args()
    try:
        document = read(args.notes) if args.notes else parse(NO_NOTES)
        true = list(document_pairs(document) if args.notes else held_out_pairs())
        judge = open_judge(document, args.judge)
    except DlmError as error:
        parser.error(str(error))
    rng = random.Random(args.seed)
    answers = answers_of_each_kind(rng.sample(true, min(args.pairs or len(true), len(true))), rng)
    if missing := [kind for kind, candidates in answers.items() if not candidates]:
        parser.error(f"Too few pairs ({len(answers['true'])}) for {', '.join(missing)} answers: use more texts.")
    results = {"judge": judge.name, "seed": args.seed} | measure(judge, answers)
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def held_out_pairs() -> Iterator[Candidate]:
    """Pairs about words that were held out when the embedded base was trained, each with its paragraph."""
    for line in (tiny.path() / "held_out.jsonl").read_text().splitlines():
        row = json.loads(line)
        for question, answer in row["pairs"]:
            yield candidate(question, answer, row["prose"])


def document_pairs(document: Document) -> Iterator[Candidate]:
    """The pairs of a document, each with the prose section before it."""
    prose = ""
    for section in document.sections:
        if section.kind == "prose":
            prose = section.content
        for pair in section.pairs():
            yield candidate(pair.question, pair.answer, prose)


def candidate(question: str, answer: str, prose: str) -> Candidate:
    return Candidate(QAPair(question, answer), "", "extraction", prose, request_key="", index=0, teacher="")


def answers_of_each_kind(true: list[Candidate], rng: random.Random) -> dict[str, list[Candidate]]:
    """The true answers and each kind of wrong ones. A kind leaves out questions it has no answer for."""
    answers: dict[str, list[Candidate]] = {"true": true} | {
        kind: [] for kind in ("shuffled", "sibling", "truncated", "invented")
    }
    questions = [c.pair.question for c in true]
    for own in true:
        others = [c.pair.answer for c in true if c.prose != own.prose]
        siblings = [c.pair.answer for c in true if c.prose == own.prose and apart(c.pair.answer, own.pair.answer)]
        near = process.extract(own.pair.question, questions, scorer=fuzz.ratio, limit=None)
        plausible = (true[i].pair.answer for _, _, i in near if true[i].prose != own.prose)
        words = own.pair.answer.split()
        wrong = {
            "shuffled": rng.choice(others) if others else None,
            "sibling": rng.choice(siblings) if siblings else None,
            "truncated": " ".join(words[: len(words) // 2]),
            "invented": next((a for a in plausible if a.lower() not in own.prose.lower()), None),
        }
        for kind, answer in wrong.items():
            if answer:
                answers[kind].append(replace(own, pair=QAPair(own.pair.question, answer)))
    return answers


def apart(one: str, other: str) -> bool:
    """Whether neither text contains the other. If one does, the sibling is not a wrong answer."""
    return one not in other and other not in one


def measure(judge: Judge, answers: dict[str, list[Candidate]]) -> dict[str, Any]:
    """AUC of each score against each kind of wrong answer, and the share that each minimum grounding lets pass."""
    scores = {kind: judge.score(candidates) for kind, candidates in answers.items()}
    auc = {
        kind: {name: area(scores["true"], wrong, name) for name in SCORE_NAMES}
        for kind, wrong in scores.items()
        if kind != "true"
    }
    grounding = sorted(s.grounding for s in scores["true"])
    # The largest value that all but 5 % reach, rounded down to a tenth.
    lowest_kept = grounding[floor((1 - KEPT) * len(grounding))]
    return {
        "answers": {kind: len(kind_scores) for kind, kind_scores in scores.items()},
        "auc": auc,
        "passed": {
            kind: {minimum: share(kind_scores, minimum) for minimum in MINIMA} for kind, kind_scores in scores.items()
        },
        "default_filter": {
            kind: round(sum(verdict(s, "extraction") is None for s in kind_scores) / len(kind_scores), 3)
            for kind, kind_scores in scores.items()
        },
        "min_grounding": floor(10 * lowest_kept) / 10,
    }


def area(true: list[Scores], wrong: list[Scores], name: str) -> float:
    values = [getattr(s, name) for s in true + wrong]
    return round(float(roc_auc_score([1] * len(true) + [0] * len(wrong), values)), 3)


def share(scores: list[Scores], minimum: float) -> float:
    return round(sum(s.grounding >= minimum for s in scores) / len(scores), 3)


def show(results: dict[str, Any]) -> None:
    """The tables, in plain text."""
    print(f"judge {results['judge']}, seed {results['seed']}\n")
    print(f"{'AUC against true answers':<26}{'answers':>8}" + "".join(f"{name:>11}" for name in SCORE_NAMES))
    for kind, areas in results["auc"].items():
        print(f"{kind:<26}{results['answers'][kind]:>8}" + "".join(f"{areas[name]:>11.3f}" for name in SCORE_NAMES))
    print(f"\n{'share that passes':<26}{'default':>8}" + "".join(f"{f'≥ {x}':>8}" for x in MINIMA))
    for kind, passed in results["passed"].items():
        print(f"{kind:<26}{results['default_filter'][kind]:>8.3f}" + "".join(f"{passed[x]:>8.3f}" for x in MINIMA))
    print(f"\nAt least 95 % of the true answers reach a grounding of {results['min_grounding']} nats per token.")


if __name__ == "__main__":
    main()
