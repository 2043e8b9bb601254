"""What a pair's scores mean and what it passed, in words: `explain(document, item, "staged")`.

A new score needs a line in `SCORES`, a new check without a judge one in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlm_trl.asking.facts import Fact, facts
from dlm_trl.asking.openings import openings
from dlm_trl.asking.questions import finished
from dlm_trl.notes import Document, Section
from dlm_trl.notes.escape import printable, redact
from dlm_trl.synth.apply import resolve_source
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.pairs import Scores
from dlm_trl.synth.passage import passage
from dlm_trl.synth.report import Stage
from dlm_trl.synth.staging import Staged

# What each number in `Scores` says.
SCORES = {
    "margin": 'how much likelier the answer is than "I don\'t know.", extracted ones with the prose, in nats per token',
    "grounding": "how much likelier the answer gets when the judge reads the prose, in nats per token",
    "overlap": "the share of the answer's words that are in the prose",
    "ending": "how likely the answer ends where it does, as a log-probability",
    "novelty": 'how much likelier "I don\'t know." is than the answer, without the prose, in nats per token',
    "lead": "how much more the question favours its sentence than the runner-up, with the prose, in nats per token",
}
# What a pair passes before the judge, in this order.
CHECKS: dict[Stage, str] = {
    "guard": "it can be written into the file and reads back the same",
    "question": "it is understood without the text; about a sentence, it leaves something to answer",
    "answer": "it is whole, says more than the question, and its numbers are in the text",
    "prose": "it is whole, understood alone, in the prose's language, and its numbers are in the text",
    "echo": "its question doesn't repeat the request, and its answer doesn't repeat the question",
    "leak": "it doesn't ask what a row held out for validation asks",
    "duplicate": "nothing in the file, in staging or earlier in the run asks the same",
}


def numbers(scores: Scores | None) -> dict[str, str]:
    """A pair's scores as they are printed, by name, without those that it doesn't have."""
    values = {name: getattr(scores, name) for name in SCORES} if scores else {}
    return {name: f"{value:.2f}" for name, value in values.items() if value is not None}


class ScoreLine(NamedTuple):
    """A score of a pair as it is printed, its limit in words ("" if that isn't known), and what it compares."""

    name: str
    shown: str
    verdict: str
    says: str


def scores_of(item: Staged) -> list[ScoreLine]:
    """The pair's scores with their limits; empty without a judge."""
    lines = []
    for name, value in numbers(item.scores).items():
        limit = (item.limits or {}).get(name)
        if limit is None:
            verdict = "" if item.limits is None else "not checked"
        else:
            verdict = f"≥ {limit:.2f}: {'passed' if getattr(item.scores, name) >= limit else 'not passed'}"
        lines.append(ScoreLine(name, value, verdict, SCORES[name]))
    return lines


def checks_of(item: Staged, section: Section | None) -> list[Stage]:
    """The checks in `CHECKS` that are made of a pair like this; section: its prose."""
    if item.scores is None:
        is_about_sentence = bool(section and _asked(item, facts(section.content)))
    else:
        is_about_sentence = item.scores.lead is not None
    others = ("prose", "answer") if is_about_sentence else ("prose",)
    return [name for name in CHECKS if name not in others]


def explain(document: Document, item: Staged, state: str) -> RenderableType:
    """The pair, where its answer and its question come from, its scores with their limits, and its checks."""
    section = resolve_source(document, item.source_section_id)
    asked = _asked(item, facts(section.content)) if section else []
    kind = f"view: {item.kind}" if item.kind else item.strategy
    head = f"{item.section_id} ({state})\nteacher {redact(item.teacher)}, {kind}, {item.synth_at}\n"
    pair = [("question", item.pair.question), ("answer", item.pair.answer)]
    if item.edited_from:
        pair += [
            ("edited", "by a person; the teacher wrote:"),
            *zip(("question", "answer"), item.edited_from, strict=True),
        ]
    pair.append(("prose", _origin(item, section)))
    parts: list[RenderableType] = [_text(head), _grid(pair + [("opening", _opening(document, item, f)) for f in asked])]
    if item.request_key is None:
        parts.append("\nAnother program staged it: its scores and checks aren't known.")
        return Group(*parts)
    if item.scores is None:
        parts.append("\nChecks, of which --filter none makes only the first, and --filter dedup-only all:")
    else:
        unknown = "" if item.limits is not None else " An earlier version staged the pair, without their limits."
        before = " They are of the pair before it was edited." if item.edited_from else ""
        scores = [(s.name, s.shown, s.verdict, s.says) for s in scores_of(item)]
        runner_up = [("", "", "runner-up", item.scores.runner_up)] if item.scores.runner_up else []
        parts += [f"\nScores, by the judge.{before}{unknown}", _grid([*scores, *runner_up]), "\nChecks before that:"]
    checks = [(name, CHECKS[name]) for name in checks_of(item, section)]
    more = f"\nThe whole prose and the teacher's reply: dlm-trl synth show {document.path} {item.section_id[:8]}"
    return Group(*parts, _grid(checks), _text(more))


def _asked(item: Staged, found: Iterable[Fact]) -> list[Fact]:
    """The sentence that a question was asked about on its own; its answer is the sentence, or its end."""
    answer = (item.edited_from or item.pair).answer.casefold()
    return [
        fact
        for fact in found
        if fact.sentence in item.facts and not item.kind and fact.sentence.casefold().endswith(answer)
    ]


def _origin(item: Staged, section: Section | None) -> str:
    """The sentence that the answer is from."""
    if section is None:
        return "no longer in the document"
    found = passage(item, section)
    return f"line {found.line}: {found.sentence}" if found else f"line {section.content_line}, but not the answer"


def _opening(document: Document, item: Staged, fact: Fact) -> str:
    """Which part of the question about a sentence a rule wrote."""
    reply = Ledger(document).get(item.request_key) if item.request_key else None
    question = (item.edited_from or item.pair).question
    # The reply continues the opening, so only one opening gives this question.
    for opening in openings(fact.sentence, fact.names) if reply else []:
        if reply and finished(opening + reply.text) == question:
            rest = question.removeprefix(opening).strip()
            if rest == "?":
                return "by rule, from the sentence: the whole question"
            return f'by rule, from the sentence: "{opening}"; the teacher wrote the rest: "{rest}"'
    return "none known: the teacher wrote the whole question"


def _grid(rows: Iterable[tuple[str, ...]]) -> Table:
    """Rows without a frame; the last cell is wrapped."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for *labels, text in rows:
        if not table.columns:
            for _ in labels:
                table.add_column(no_wrap=True)
            table.add_column()
        table.add_row(*map(_text, labels), _text(text))
    return table


def _text(text: str) -> Text:
    return Text(printable(text))
