"""What a pair's scores mean and what it passed, in words: `explain(document, item, "staged")`.

A new score needs a line in `SCORES`, a new check without a judge one in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlm_trl.notes import Document, Section
from dlm_trl.notes.escape import printable, redact
from dlm_trl.synth.apply import resolve_source
from dlm_trl.synth.facts import Fact, facts
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.openings import openings
from dlm_trl.synth.pairs import Scores
from dlm_trl.synth.passage import passage
from dlm_trl.synth.questions import finished
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


def explain(document: Document, item: Staged, state: str) -> RenderableType:
    """The pair, where its answer and its question come from, its scores with their limits, and its checks."""
    section = resolve_source(document, item.source_section_id)
    found = [fact for fact in facts(section.content) if fact.sentence in item.facts] if section else []
    # The answer to a question about a sentence is the sentence, or its end.
    asked = [fact for fact in found if not item.kind and fact.sentence.casefold().endswith(item.pair.answer.casefold())]
    is_about_sentence = bool(asked) if item.scores is None else item.scores.lead is not None
    kind = f"view: {item.kind}" if item.kind else item.strategy
    head = f"{item.section_id} ({state})\nteacher {redact(item.teacher)}, {kind}, {item.synth_at}\n"
    pair = [("question", item.pair.question), ("answer", item.pair.answer), ("prose", _origin(item, section))]
    parts: list[RenderableType] = [_text(head), _grid(pair + [("opening", _opening(document, item, f)) for f in asked])]
    if item.request_key is None:
        parts.append("\nAnother program staged it: its scores and checks aren't known.")
        return Group(*parts)
    if item.scores is None:
        parts.append("\nChecks, of which --filter none makes only the first, and --filter dedup-only all:")
    else:
        unknown = "" if item.limits is not None else " An earlier version staged the pair, without their limits."
        parts += [f"\nScores, by the judge.{unknown}", _grid(_scores(item, item.scores)), "\nChecks before that:"]
    others = ("prose", "answer") if is_about_sentence else ("prose",)  # not made of this pair
    checks = [(name, text) for name, text in CHECKS.items() if name not in others]
    more = f"\nThe whole prose and the teacher's reply: dlm-trl synth show {document.path} {item.section_id[:8]}"
    return Group(*parts, _grid(checks), _text(more))


def _origin(item: Staged, section: Section | None) -> str:
    """The sentence that the answer is from."""
    if section is None:
        return "no longer in the document"
    found = passage(item, section)
    return f"line {found.line}: {found.sentence}" if found else f"line {section.content_line}, but not the answer"


def _opening(document: Document, item: Staged, fact: Fact) -> str:
    """Which part of the question about a sentence a rule wrote."""
    reply = Ledger(document).get(item.request_key) if item.request_key else None
    # The reply continues the opening, so only one opening gives this question.
    for opening in openings(fact.sentence, fact.names) if reply else []:
        if reply and finished(opening + reply.text) == item.pair.question:
            rest = item.pair.question.removeprefix(opening).strip()
            if rest == "?":
                return "by rule, from the sentence: the whole question"
            return f'by rule, from the sentence: "{opening}"; the teacher wrote the rest: "{rest}"'
    return "none known: the teacher wrote the whole question"


def _scores(item: Staged, scores: Scores) -> Iterator[tuple[str, ...]]:
    """Each score with its limit, and what it says."""
    for name, value in numbers(scores).items():
        limit = (item.limits or {}).get(name)
        if limit is None:
            verdict = "" if item.limits is None else "not checked"
        else:
            verdict = f"≥ {limit:.2f}: {'passed' if getattr(scores, name) >= limit else 'not passed'}"
        yield name, value, verdict, SCORES[name]
    if scores.runner_up:
        yield "", "", "runner-up", scores.runner_up


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
