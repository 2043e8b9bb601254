"""What the `synth` verbs print: tables for people, and the same as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlm_trl.notes import Document
from dlm_trl.synth.apply import resolve_source
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.report import Counts, Synthesis, advice
from dlm_trl.synth.staging import Staged

if TYPE_CHECKING:
    from dlm_trl.synth.dry_run import Estimate

LOSSES_SHOWN = 30


def estimates(found: Sequence[Estimate]) -> RenderableType:
    """The table of a dry run."""
    table = Table("document", "sections", "requests", "in the ledger", "prompt tokens", "new tokens", "cost", "time")
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
    return Group(table, "Nothing was asked.")


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
        shown = [f"- section {f.section_id[:8]}: {f.reason}" for f in done.failures[:LOSSES_SHOWN]]
        if len(done.failures) > LOSSES_SHOWN:
            shown.append(f"… and {len(done.failures) - LOSSES_SHOWN} more; --json has all of them.")
        parts.append(Text("\n".join(shown)))
    if done.losses:
        table = Table("lost to", "question", "why", title="What did not pass", title_justify="left")
        for loss in done.losses[:LOSSES_SHOWN]:
            table.add_row(loss.stage, Text(loss.pair.question), Text(loss.reason))
        parts.append(table)
        if len(done.losses) > LOSSES_SHOWN:
            parts.append(f"… and {len(done.losses) - LOSSES_SHOWN} more; --json has all of them.")
    used = (
        f"{done.usage.prompt_tokens:,} prompt and {done.usage.completion_tokens:,} new tokens in {done.seconds:.1f} s"
    )
    parts.append(f"{used}{'' if done.cost is None else f', cost {done.cost:.4f}'}.")
    if done.stopped:
        parts.append(done.stopped)
    if not counts.kept:
        parts.append(f"No pair was accepted. {advice(counts)}")
    elif done.applied:
        parts.append(f"Applied {done.applied} of {counts.kept} accepted pairs to {done.path}.")
    else:
        before = counts.kept - len(done.staged)
        known = f", {before} were staged or in the file before" if before else ""
        parts.append(
            f"Accepted {counts.kept}, newly staged {len(done.staged)}{known}. Look: dlm-trl synth list {done.path}. "
            f"Write what is staged: dlm-trl synth apply {done.path}."
        )
    return Group(*parts)


def filter_report(counts: Counts, filter: str) -> str:
    """One line, as users of the format know it, and one for what it leaves out."""
    first = f"synth filter: generated {counts.generated}, dedup {counts.after_dedup}"
    if filter == "sway":
        first += f", judge passed {counts.judge_passed}, threshold {counts.above_threshold}"
    losses = ("guard", "leak", "duplicate", "judge", "threshold", "grounding", "surplus")
    return f"{first}\nlost: {', '.join(f'{name} {getattr(counts, name)}' for name in losses)}; kept {counts.kept}"


def pairs(document: Path, staged: Sequence[Staged], applied: Sequence[Staged]) -> RenderableType:
    """The table of `synth list`."""
    table = Table("id", "state", "teacher", "strategy", "margin", "grounding", "question", title=str(document))
    for state, items in (("applied", applied), ("staged", staged)):
        for item in items:
            scores = [item.scores.margin, item.scores.grounding] if item.scores else []
            shown = [f"{score:.2f}" for score in scores] or ["", ""]
            table.add_row(
                item.section_id[:8], state, Text(item.teacher), item.strategy, *shown, Text(item.pair.question)
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
    return Text("\n".join(lines))


def replies(document: Document, section_id: str) -> RenderableType:
    """What teachers wrote about one prose section, as the ledger has it, whether or not it could be read."""
    lines = []
    for entry in Ledger(document).entries():
        facts = entry["facts"]
        source = resolve_source(document, facts.get("section_id", ""))
        if source and source.section_id == section_id:
            lines.append(f"{entry['at']} {facts.get('teacher')}, {facts.get('strategy')}:\n{entry['text']}\n")
    return Text("\n".join(lines) or "No teacher was asked about this section.")


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
