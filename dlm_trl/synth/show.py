"""What the `synth` verbs print: tables for people, and the same as JSON for programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dlm_trl.notes import Document
from dlm_trl.synth.apply import resolve_source
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.report import Counts, Synthesis, advice
from dlm_trl.synth.staging import Staged

if TYPE_CHECKING:
    from dlm_trl.synth.dry_run import Estimate

LOSSES_SHOWN = 30
_AGAIN = " A reply that cannot be read is asked about once more, which is not counted here."
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def estimates(found: Sequence[Estimate]) -> RenderableType:
    """The table of a dry run."""
    table = Table(
        "document", "sections", "requests", "answered in the ledger", "prompt tokens", "new tokens", "cost", "time"
    )
    for one in found:
        table.add_row(
            str(one.path),
            str(one.sections),
            str(one.requests),
            str(one.remembered),
            f"{'' if one.exact else '≤ '}{one.most.prompt_tokens:,}",
            f"≤ {one.most.completion_tokens:,}",
            "no prices" if one.cost is None else f"≤ {one.cost:.4f}",
            "not measured" if one.seconds is None else f"~{one.seconds:.0f} s",
        )
    again = "" if all(one.requests == one.remembered for one in found) else _AGAIN
    return Group(table, f"Nothing was asked.{again}")


def outcome(done: Synthesis, filter: str) -> RenderableType:
    """A run: the plan, the filter's report in the format's own words, every loss, and what was staged."""
    counts = done.counts
    lines = [
        f"{done.path}: teacher {done.teacher}" + (f", judge {done.judge}" if done.judge else ""),
        f"synth plan: sections {counts.sections}, asked {counts.asked} (again {counts.asked_again}), "
        f"from the ledger {counts.remembered}, replied {counts.replied}, failed {counts.failed}, "
        f"unreadable {counts.unparsed}, pairs {counts.generated}",
        filter_report(counts, filter),
    ]
    parts: list[RenderableType] = [Text("\n".join(lines))]
    if done.failures:
        shown = [f"- section {failure.section_id[:8]}: {failure.reason}" for failure in done.failures[:LOSSES_SHOWN]]
        parts += [_visible("\n".join(shown)), *_rest(done.failures)]
    if done.losses:
        table = Table("lost to", "question", "why", title="What did not pass", title_justify="left")
        for loss in done.losses[:LOSSES_SHOWN]:
            table.add_row(loss.stage, _visible(loss.pair.question), _visible(loss.reason))
        parts += [table, *_rest(done.losses)]
    used = (
        f"{done.usage.prompt_tokens:,} prompt and {done.usage.completion_tokens:,} new tokens in {done.seconds:.1f} s"
    )
    parts.append(f"{used}{'' if done.cost is None else f', cost {done.cost:.4f}'}.")
    if done.stopped:
        parts.append(done.stopped)
    if not counts.kept:
        parts.append(f"No pair was accepted. {advice(counts)}")
    elif done.applied:
        others = "" if done.applied == counts.kept else " The others are the same as these, or were there before."
        parts.append(f"Applied {done.applied} of {counts.kept} accepted pairs to {done.path}.{others}")
    elif done.staged:
        before = counts.kept - len(done.staged)
        known = f", {before} are the same as these or were there before" if before else ""
        parts.append(
            f"Accepted {counts.kept}, newly staged {len(done.staged)}{known}. Look: dlm-trl synth list {done.path}. "
            f"Write what is staged: dlm-trl synth apply {done.path}."
        )
    else:
        parts.append(f"Accepted {counts.kept}; all of them were there before. Look: dlm-trl synth list {done.path}.")
    return Group(*parts)


def filter_report(counts: Counts, filter: str) -> str:
    """One line, as users of the format know it, and one for what it leaves out."""
    first = f"synth filter: generated {counts.generated}, dedup {counts.after_dedup}"
    if filter == "sway":
        first += f", judge passed {counts.judge_passed}, threshold {counts.above_threshold}"
    losses = ("guard", "leak", "duplicate", "judge", "threshold", "grounding", "surplus")
    return f"{first}\nlost: {', '.join(f'{name} {getattr(counts, name)}' for name in losses)}; kept {counts.kept}"


def pairs(staged: Sequence[Staged], applied: Sequence[Staged]) -> RenderableType:
    """The table of `synth list`."""
    own_id = Column("id", no_wrap=True, min_width=8)  # the other verbs take it
    table = Table(own_id, "state", "teacher", "strategy", "margin", "grounding", "question")
    for state, items in (("applied", applied), ("staged", staged)):
        for item in items:
            scores = [item.scores.margin, item.scores.grounding] if item.scores else []
            shown = [f"{score:.2f}" for score in scores] or ["", ""]
            table.add_row(
                item.section_id[:8], state, Text(item.teacher), item.strategy, *shown, _visible(item.pair.question)
            )
    return table


def one_pair(document: Document, item: Staged, state: str) -> RenderableType:
    """All about one pair: itself, how it came to be, its scores, the prose and the teacher's words."""
    lines = [
        f"{item.section_id} ({state})",
        f"teacher {item.teacher}, {item.strategy}, {item.synth_at}",
        f"\nQ: {item.pair.question}\nA: {item.pair.answer}\n",
    ]
    if item.scores:
        lines.append(
            f"margin {item.scores.margin:.3f}, grounding {item.scores.grounding:.3f}, "
            f"words in the prose {item.scores.overlap:.0%}"
        )
    source = resolve_source(document, item.source_section_id)
    if source is None:
        lines.append(f"\nIts prose {item.source_section_id} is no longer in the document.")
    else:
        lines.append(f"\nIts prose, line {source.start_line}:\n{source.content.strip()}")
    reply = Ledger(document).get(item.request_key) if item.request_key else None
    if reply:
        lines.append(f"\nThe teacher's reply:\n{reply.text}")
    return _visible("\n".join(lines))


def replies(document: Document, section_id: str) -> RenderableType:
    """What teachers wrote about one prose section, as the ledger has it, whether or not it could be read."""
    lines = []
    for entry in Ledger(document).entries():
        facts = entry["facts"]
        source = resolve_source(document, facts.get("section_id", ""))
        if source and source.section_id == section_id:
            lines.append(f"{entry['at']} {facts.get('teacher')}, {facts.get('strategy')}:\n{entry['text']}\n")
    return _visible("\n".join(lines) or "No teacher was asked about this section.")


def _visible(text: str) -> Text:
    """A text that somebody else wrote, with control characters by their names: a terminal would obey them."""
    return Text(_CONTROL.sub(lambda character: ascii(character[0])[1:-1], text))


def _rest(items: Sequence[object]) -> list[str]:
    """A line about those that are not shown, where there are any."""
    more = len(items) - LOSSES_SHOWN
    return [f"… and {more} more; --json has all of them."] if more > 0 else []


def as_lines(table: Table) -> str:
    """A table for files and pipes: a row is a line, tabs stand between its cells."""
    rows = [[column.header for column in table.columns], *zip(*(column.cells for column in table.columns), strict=True)]
    lines = ["\t".join(" ".join(str(cell).split()) for cell in row) for row in rows]
    return "\n".join([str(table.title), *lines] if table.title else lines)


def as_json(value: Any) -> str:
    """Dataclasses, and lists of them, as JSON: paths as text, scores without a finite value as null."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=1)


def _plain(value: Any) -> Any:
    match value:
        case Path():
            return str(value)
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case tuple() if hasattr(value, "_asdict"):
            return _plain(value._asdict())
        case list() | tuple():
            return [_plain(item) for item in value]
        case str() | int() | float() | None:
            return value
    return _plain(asdict(value))
