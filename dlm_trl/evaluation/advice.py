"""What a run's numbers suggest to do next, and which facts the model still misses. Pure functions, no model.

    missed(questions, answers)               # the questions with a wrong answer, and where their fact is written
    advise(measures)                         # one to three sentences

The rules, in this order; the first three that apply are given:

1. seen F1 below LEARNED: the model doesn't know its pairs → more steps, a higher learning rate or rank
2. else reworded F1 below KNOWN: it repeats the pairs → more views of each fact
3. else held-out or reverse F1 below KNOWN: → pairs about these facts, in both directions
4. open book better by CLEARLY on untrained questions → the prompt may serve better than training
5. perplexity up by more than FORGOTTEN → more rehearsal
6. more inventions than before, or more than half → pairs that say what the notes don't cover

4 and the groups of 2 and 3 are over questions that no pair asks in these words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dlm_trl.evaluation.answers import token_f1
from dlm_trl.evaluation.inventions import abstains
from dlm_trl.evaluation.numbers import Measure, number
from dlm_trl.evaluation.spec import TRAPS, UNTRAINED, NotesQuestions

MISSED = 0.6  # token F1 below which an answer counts as missed
LEARNED = 0.8  # F1 of trained pairs that a sufficient run reaches
KNOWN = 0.6  # F1 of other questions, from which on most of them are answered
CLEARLY = 0.1  # difference of F1 or of a share that isn't chance in groups of 20 questions or more
FORGOTTEN = 0.1  # relative rise of the perplexity
MOST = 3  # sentences


@dataclass(frozen=True, slots=True)
class Missed:
    """A question with a wrong answer (`said`, with its token F1). file, line: where the question or its pair is."""

    group: str
    question: str
    answer: str
    said: str
    f1: float
    file: str | None
    line: int | None


def is_right(group: str, expected: str, said: str) -> bool:
    """Whether an answer counts as right where it is shown: an F1 of MISSED or more; to a trap, that it abstains."""
    return abstains(said) if group == TRAPS else token_f1(said, expected) >= MISSED


def missed(questions: NotesQuestions, answers: Mapping[str, Mapping[str, str]]) -> list[Missed]:
    """The questions whose answers have an F1 below MISSED, in the order in which they were asked."""
    found = []
    for group, asked in questions.groups.items():
        for question, expected, _ in asked:
            said = answers[group][question]
            if (f1 := token_f1(said, expected)) < MISSED:
                file, line = questions.places.get(group, {}).get(question, (None, None))
                found.append(Missed(group, question, expected, said, round(f1, 4), file, line))
    return found


def advise(measures: Sequence[Measure]) -> list[str]:
    """One to three sentences that follow from the numbers by the rules above; none without questions."""
    named = {measure.name: measure for measure in measures}
    sentences = [*_learning(named), *_prompt(named), *forgetting(named), *_inventing(named)]
    if not sentences and any(name.startswith("F1, ") for name in named):
        return ["No rule asks for a change: the model answers most questions and forgot little."]
    return sentences[:MOST]


def _learning(named: Mapping[str, Measure]) -> list[str]:
    seen = _after(named, "F1, seen")
    if seen is not None and seen < LEARNED:
        return [
            f"It doesn't know its trained pairs yet (F1 {number(seen, 'share')}): train more epochs, or raise "
            "the learning rate or the rank."
        ]
    reworded = _after(named, "F1, reworded")
    if reworded is not None and reworded < KNOWN:
        return [
            f"It repeats trained pairs but misses the same questions in other words (F1 {number(reworded, 'share')}): "
            "have more views of each fact written with dlm-trl synth views, or run dlm-trl improve."
        ]
    weak = [
        (group, f1)
        for group in ("held-out", "reverse")
        if (f1 := _after(named, f"F1, {group}")) is not None and f1 < KNOWN
    ]
    if weak:
        groups = " and ".join(f"{group} questions (F1 {number(f1, 'share')})" for group, f1 in weak)
        return [
            f"It misses {groups}: add pairs about these facts, also from the other side; dlm-trl synth coverage lists "
            "the sentences that nothing asks about."
        ]
    return []


def _prompt(named: Mapping[str, Measure]) -> list[str]:
    untrained = [m for group in UNTRAINED if (m := named.get(f"F1, {group}")) and m.open_book is not None]
    known = [(m.after, m.open_book, m.questions or 1) for m in untrained if m.after is not None]
    if not known:
        return []
    asked = sum(count for *_, count in known)
    after = sum(one * count for one, _, count in known) / asked
    opened = sum((other or 0.0) * count for _, other, count in known) / asked
    if opened - after < CLEARLY:
        return []
    return [
        f"With the notes in its prompt the base answers better (F1 {number(opened, 'share')} against "
        f"{number(after, 'share')} on questions that nothing trained): if the notes fit your prompts, that may serve "
        "you better than training."
    ]


def forgetting(named: Mapping[str, Measure]) -> list[str]:
    """What to do if the perplexity of general text rose; named: the measures by name."""
    perplexity = named.get("perplexity, general text")
    if perplexity is None or not perplexity.before or perplexity.after is None:
        return []
    rise = perplexity.after / perplexity.before - 1
    if not rise > FORGOTTEN:
        return []
    return [
        f"The perplexity of general text rose by {rise:.0%}: set rehearsal to 5, or double it where it is set, or "
        "lower the learning rate."
    ]


def _inventing(named: Mapping[str, Measure]) -> list[str]:
    traps = named.get("inventions, traps")
    if traps is None or traps.after is None:
        return []
    worse = traps.before is not None and traps.after > traps.before + CLEARLY
    if not (worse or traps.after > 0.5):
        return []
    compared = "" if traps.before is None else f" ({number(traps.before, 'share')} before)"
    return [
        f"It makes up an answer to {number(traps.after, 'share')} of the questions that the notes don't answer"
        f"{compared}: add pairs that say what the notes don't cover."
    ]


def _after(named: Mapping[str, Measure], name: str) -> float | None:
    measure = named.get(name)
    return measure.after if measure else None
