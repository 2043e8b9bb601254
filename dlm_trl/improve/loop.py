"""Rounds of training and asking: train, measure, have a teacher write about the facts that were missed, train again.

    rounds = improve("notes.dlm", SynthSettings(teacher="hf:…", views=6), ["questions=questions.jsonl"], rounds=3)

Every round trains a new adapter from the base, on all pairs and views so far: an adapter that is trained on only the
new ones forgets the others. A round counts if its score rises: the mean token F1 on the questions that nothing trained
(reworded, held-out, reverse). When it doesn't, the round's pairs and views are taken back, the best adapter stays the
document's current one, and the rounds end.

The loop is that of self-improvement by synthetic data (for example "SEAL", Zweiger et al. 2025), with a teacher of your
choice: `self` asks the adapter of the round before. Because the missed questions decide what is asked, the score of
the last round says how well these questions were learned, not how well others would be.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlm_trl.asking.facts import facts
from dlm_trl.evaluation.numbers import number
from dlm_trl.evaluation.spec import UNTRAINED
from dlm_trl.export.run_module import run_module
from dlm_trl.improve.rounds import Round, read_rounds, write_rounds
from dlm_trl.notes import Document, read
from dlm_trl.notes.errors import UsageError
from dlm_trl.notes.store import publish_adapter
from dlm_trl.rows.views import discard_views
from dlm_trl.synth.apply import revert
from dlm_trl.synth.budget import Budget
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.matching import Matcher
from dlm_trl.synth.run import check, synthesize
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.teachers.load import inspect_teacher, is_self
from dlm_trl.teachers.protocol import Usage
from dlm_trl.train.config import read_configuration
from dlm_trl.train.save import adapter_files
from dlm_trl.train.setting import as_arguments

Train = Callable[[Path, Sequence[str], Path], None]  # document, settings, output_dir


def improve(
    path: str | os.PathLike[str],
    settings: SynthSettings,
    recipe: Sequence[str],
    rounds: int,
    folder: Path,
    train: Train | None = None,
    tell: Callable[[str], None] = print,
) -> list[Round]:
    """Train a first time (round 0), then up to `rounds` times more; returns all rounds, those of earlier calls too.

    settings: of the teacher; `views` is how many views a round adds for each missed sentence, and its limits on cost
    and tokens are for all rounds, those of earlier calls too. recipe: settings of the training as KEY=VALUE, with
    questions to measure by. folder: gets a folder per round and `rounds.json`; the same call again resumes. train:
    stands in for the recipe in a process of its own. tell: gets one line per event. Raises DlmError before the first
    round if something is missing.
    """
    path = Path(path)
    document = read(path)
    if not is_self(settings.teacher):  # its adapter is trained in round 0
        check(document, settings)
        inspect_teacher(settings.teacher, document, settings.quantization)
    configuration = read_configuration(["--notes", str(path), *as_arguments(recipe)])
    if not configuration.notes.questions:
        raise UsageError(
            "No questions to measure by: the rounds compare answers to questions that nothing trained.",
            hint="Set questions=FILE, JSON lines as in recipes/notes_questions.jsonl.",
        )
    train = train or _train
    folder.mkdir(parents=True, exist_ok=True)
    done = read_rounds(folder)
    if done and done[-1].replies is not None and not (done[-1].pairs or done[-1].views):  # killed while it asked
        done[-1] = replace(done[-1], spent=_spent_since(document, done[-1].replies))
    spent = sum((Usage(*each.spent) for each in done), Usage())
    budget = Budget(settings.budget_tokens, settings.max_cost, settings.price, spent)

    def keep(current: Round) -> None:
        done[current.number :] = [current]
        write_rounds(folder, done)

    for count in range(len(done) - bool(done and done[-1].score is None), rounds + 1):
        if done and done[-1].taken_back:
            break
        current = done[count] if count < len(done) else Round(count, str(folder / f"round-{count}"))
        began = time.monotonic()
        if count and not current.pairs and not current.views:
            missed = done[count - 1].missed
            if not missed:
                tell("Nothing is missed any more.")
                break
            if current.replies is None:
                current = replace(current, replies=sum(1 for _ in Ledger(read(path)).entries()))
            keep(current)  # a run that is killed while it asks counts what it spent
            current = _asked(path, current, missed, settings, budget, tell)
            if not (current.pairs or current.views):
                tell("The teacher wrote nothing new that passed the filter.")
                break
            keep(current)  # a run that is killed while it trains doesn't ask again
        train(path, recipe, Path(current.folder))
        current = _measured(current, read(path), time.monotonic() - began)
        tell(_line(current))
        best = max(done[:count], key=_score, default=None)
        if best and _score(current) <= _score(best):
            current = _taken_back(path, current, best, configuration.notes.adapter_name)
            tell(f"Round {count} isn't better: its pairs and views are taken back, the adapter of {best.folder} stays.")
        keep(current)
    return [each for each in done if each.score is not None]


def missed_sentences(document: Document, missed: Sequence[dict[str, Any]]) -> list[str]:
    """The sentences of the prose that missed questions ask about, in file order. missed: of a `report.json`."""
    prose = [fact for section in document.sections if section.kind == "prose" for fact in facts(section.content)]
    matcher = Matcher(prose)
    found = {
        fact.sentence
        for each in missed
        if each["group"] in UNTRAINED
        for fact in matcher.match(each["question"], each["answer"])
    }
    return [fact.sentence for fact in prose if fact.sentence in found]


def _asked(
    path: Path,
    current: Round,
    sentences: Sequence[str],
    settings: SynthSettings,
    budget: Budget,
    tell: Callable[[str], None],
) -> Round:
    """Have the teacher write about these sentences, and add what passes to the document and its store."""
    tell(f"Round {current.number}: asking {settings.teacher} about {len(sentences)} sentences that were missed.")
    step = settings.views or 1
    wanted = replace(settings, views=step * current.number, sentences=frozenset(sentences))
    found = synthesize(path, wanted, apply_now=True, budget=budget)
    if found.stopped:
        tell(found.stopped)
    spent = Usage(*current.spent) + found.usage
    return replace(
        current,
        sentences=len(sentences),
        pairs=tuple(item.section_id for item in found.staged),
        views=tuple(view.text for view in found.stored),
        spent=(spent.prompt_tokens, spent.completion_tokens),
    )


def _spent_since(document: Document, replies: int) -> tuple[int, int]:
    """The prompt and completion tokens of the document's ledger, without its first replies."""
    entries = list(Ledger(document).entries())[replies:]
    return sum(entry["prompt_tokens"] for entry in entries), sum(entry["completion_tokens"] for entry in entries)


def _measured(current: Round, document: Document, seconds: float) -> Round:
    """The round with the numbers of its report."""
    report = json.loads((Path(current.folder) / "report.json").read_text(encoding="utf-8"))
    named = {measure["name"]: measure for measure in report["measures"]}
    groups = {group: named[f"F1, {group}"] for group in UNTRAINED if f"F1, {group}" in named}
    if not groups:
        raise UsageError(
            "The questions have none that nothing trained.",
            hint="Add lines with kind reworded, held-out or reverse to the questions file.",
        )
    asked = sum(measure["questions"] for measure in groups.values())
    return replace(
        current,
        score=sum(measure["after"] * measure["questions"] for measure in groups.values()) / asked,
        groups={group: measure["after"] for group, measure in groups.items()},
        inventions=named.get("inventions, traps", {}).get("after"),
        perplexity=named["perplexity, general text"]["after"],
        missed=tuple(missed_sentences(document, report["missed"])),
        seconds=seconds,
    )


def _taken_back(path: Path, current: Round, best: Round, adapter_name: str | None) -> Round:
    present = {section.bare_id for section in read(path).sections}
    if ids := [pair for pair in current.pairs if pair in present]:
        revert(path, ids)
    document = read(path)
    discard_views(document, current.views)
    publish_adapter(document.frontmatter.dlm_id, adapter_files(Path(best.folder)), adapter_name)
    return replace(current, taken_back=True)


def _train(path: Path, recipe: Sequence[str], output_dir: Path) -> None:
    settings = [*recipe, f"output_dir={output_dir}", "resume_from_checkpoint=true", "overwrite=true"]
    run_module("dlm_trl", "train", str(path), *settings, show=True)


def _score(done: Round) -> float:
    return -1.0 if done.score is None else done.score


def _line(done: Round) -> str:
    groups = ", ".join(f"{group} {number(f1, 'share')}" for group, f1 in done.groups.items())
    return f"Round {done.number}: F1 {number(done.score, 'share')} ({groups}), {len(done.missed)} sentences missed."
