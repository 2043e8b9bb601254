"""What the `synth` commands print: tables for people, and the same as JSON for programs."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dlm_trl.notes import Document
from dlm_trl.notes.escape import printable, printable_json, redact
from dlm_trl.rows.views import ProseView
from dlm_trl.synth.apply import resolve_source
from dlm_trl.synth.coverage import Asking, Coverage, Totals
from dlm_trl.synth.explain import numbers
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.passage import prose_by_id
from dlm_trl.synth.report import Counts, Loss, Stage, Synthesis, advice
from dlm_trl.synth.staging import Staged
from dlm_trl.synth.view_kinds import VIEW_KINDS
from dlm_trl.teachers.load import is_local

if TYPE_CHECKING:
    from dlm_trl.synth.dry_run import Estimate

FAILURES_SHOWN = 30
EXAMPLES = 3  # of the pairs rejected for one reason
_LEAN: Any = {"box": SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)}  # fits 80 columns


def estimates(items: Sequence[Estimate]) -> RenderableType:
    """The table of a dry run; a column that is empty for all documents is left out."""
    columns: dict[str, list[str]] = {
        "document": [str(item.path) for item in items],
        "sections": [str(item.sections) for item in items],
        "sentences": [str(item.sentences or "") for item in items],
        "requests": [str(item.requests) for item in items],
        "in the ledger": [str(item.from_ledger) for item in items],
        "prompt tokens": [f"{'' if item.exact else '≤ '}{item.max_usage.prompt_tokens:,}" for item in items],
        "new tokens": [f"≤ {item.max_usage.completion_tokens:,}" for item in items],
        "cost": ["" if item.cost is None else f"≤ {item.cost:.4f}" for item in items],
        "time": ["" if item.seconds is None else f"~{item.seconds:.0f} s" for item in items],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(*shown, **_LEAN)
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(_escaped, row))
    notes = ["No request was sent."]
    if any(item.requests > item.from_ledger for item in items):
        notes.append("Retries after unreadable replies aren't included.")
    parts: list[RenderableType] = [table, " ".join(notes)]
    sentences, requests = sum(item.sentences for item in items), sum(item.requests for item in items)
    if sentences and any(is_local(item.teacher) for item in items):
        parts.append(f"{sentences} sentences, {requests} requests: one for each way to ask; the best question counts.")
    return Group(*parts)


def outcome(run: Synthesis, filter: str) -> RenderableType:
    """A run: its requests, the filter report in the reference's wording, every rejected pair, and what was staged."""
    counts = run.counts
    if run.coverage and run.coverage.sentences and not counts.sections:  # only with --uncovered, or views
        done = "have their views" if run.has_views else "are asked about"
        return _escaped(f"{run.path}: all {run.coverage.sentences} sentences {done}; no request was sent.")
    lines = [
        f"{run.path}: teacher {run.teacher}" + (f", judge {run.judge}" if run.judge else ""),
        f"synth plan: sections {counts.sections}, requests {counts.sent} (retries {counts.retried}), "
        f"from the ledger {counts.from_ledger}, {f'divided {counts.divided}, ' if counts.divided else ''}"
        f"replied {counts.replied}, failed {counts.failed}, "
        f"unreadable {counts.unparsed}, pairs {counts.generated}",
        filter_report(counts, filter),
    ]
    parts: list[RenderableType] = [_escaped("\n".join(lines))]
    if run.failures:
        reasons = [f"- section {failure.section_id[:8]}: {failure.reason}" for failure in run.failures]
        counted = list(Counter(reasons).items())
        shown = [f"{reason}{_times(count)}" for reason, count in counted[:FAILURES_SHOWN]]
        parts += [_escaped("\n".join(shown)), *_not_shown(counted)]
    if run.losses:
        parts += [losses(run.losses), "--json lists all of them."]
    usage = f"{run.usage.prompt_tokens:,} prompt and {run.usage.completion_tokens:,} new tokens in {run.seconds:.1f} s"
    parts.append(f"{usage}{'' if run.cost is None else f', cost {run.cost:.4f}'}.")
    if run.stopped:
        parts.append(run.stopped)
    if run.has_views:
        parts += _views(run)
    elif not counts.kept:
        parts.append(f"No pair was accepted. {advice(counts, run.has_sources)}")
    elif run.applied:
        known = "" if run.applied == counts.kept else " The others were already there."
        parts.append(f"Applied {run.applied} of {counts.kept} accepted pairs to {run.path}.{known}")
    elif run.staged:
        before = counts.kept - len(run.staged)
        known = f" ({before} were already there)" if before else ""
        parts.append(
            f"Accepted {counts.kept} pairs, staged {len(run.staged)}{known}. To see them: dlm-trl synth list "
            f"{run.path}. To write them into the file: dlm-trl synth apply {run.path}."
        )
    else:
        parts.append(
            f"Accepted {counts.kept} pairs; all of them were already there. To see them: dlm-trl synth list {run.path}."
        )
    if run.coverage and run.coverage.sentences:
        parts.append(_coverage_line(run.coverage, run.path))
    return Group(*parts)


def _views(run: Synthesis) -> list[RenderableType]:
    """What became of the accepted views."""
    if not run.counts.kept:
        return [f"No view was accepted. {advice(run.counts, run.has_sources)}"]
    parts: list[RenderableType] = [f"Accepted {run.counts.kept} views."]
    if run.staged:
        parts.append(
            f"Staged {len(run.staged)} pairs. To see them: dlm-trl synth list {run.path}. To write them into the file: "
            f"dlm-trl synth apply {run.path}."
        )
    if run.stored:
        parts.append(
            f"Stored {len(run.stored)} prose views, which are trained with the document's prose. To see them: dlm-trl "
            f"synth views {run.path} --list."
        )
    known = run.counts.kept - len(run.staged) - len(run.stored)
    return [*parts, *([f"{known} were already there."] if known else [])]


def prose_views(path: Path, views: Sequence[ProseView], gone: int) -> RenderableType:
    """The prose views of a document, in the order of their sentences."""
    table = Table("line", "kind", "teacher", "text")
    for view in views:
        table.add_row(str(view.line), view.kind, redact(view.teacher), _escaped(view.text))
    lost = f"; {gone} more aren't trained on, since their sentence was edited or removed" if gone else ""
    return Group(*([table] if views else []), _escaped(f"{path}: {len(views)} prose views{lost}."))


def losses(lost: Sequence[Loss]) -> Table:
    """The rejected pairs by stage, in the funnel's order, and reason, the most frequent first, with some of each."""
    reason = Column("reason", max_width=24)  # the examples are longer
    table = Table("stage", "pairs", reason, "for example", title="Rejected pairs", title_justify="left", **_LEAN)
    groups: dict[tuple[Stage, str], Counter[str]] = defaultdict(Counter)
    for loss in lost:
        detail = f" ({loss.detail})" if loss.detail else ""
        groups[loss.stage, loss.kind][f"{loss.pair.shown}{detail}"] += 1
    order = get_args(Stage)
    for (stage, kind), found in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), -item[1].total())):
        examples = [f"· {text}{_times(count)}" for text, count in list(found.items())[:EXAMPLES]]
        table.add_row(stage, f"×{found.total()}", _escaped(kind), _escaped("\n".join(examples)))
    return table


def _coverage_line(totals: Totals, path: Path) -> str:
    gone = f" {totals.gone} pairs ask about sentences that are gone." if totals.gone else ""
    details = f" To see which: dlm-trl synth coverage {path}." if gone or totals.asked_about < totals.sentences else ""
    return f"Coverage: {totals.asked_about} of {totals.sentences} sentences are asked about.{gone}{details}"


def _times(count: int) -> str:
    return f" (×{count})" if count > 1 else ""


def filter_report(counts: Counts, filter: str) -> str:
    """A line in the wording of the reference implementation, and one with the counts it leaves out."""
    first = f"synth filter: generated {counts.generated}, dedup {counts.after_dedup}"
    if filter == "sway":
        first += f", judge passed {counts.judge_passed}, threshold {counts.above_threshold}"
    lost = ", ".join(f"{stage} {getattr(counts, stage)}" for stage in get_args(Stage))
    return f"{first}\nlost: {lost}; kept {counts.kept}"


def one_pair(document: Document, item: Staged, state: str) -> RenderableType:
    """One pair with its origin, scores, prose and the teacher's full reply."""
    lines = [
        f"{item.section_id} ({state})",
        f"teacher {redact(item.teacher)}, {item.strategy}, {item.synth_at}",
        f"\nQ: {item.pair.question}\nA: {item.pair.answer}\n",
    ]
    if item.edited_from:
        question, answer = item.edited_from
        lines.append(f"Edited; the teacher wrote:\nQ: {question}\nA: {answer}\n")
    if item.scores:
        scores = ", ".join(f"{name} {value}" for name, value in numbers(item.scores).items())
        lines.append(
            f"{scores}; to see what they mean: dlm-trl synth list {document.path} --explain {item.section_id[:8]}"
        )
    source = resolve_source(document, item.source_section_id)
    if source is None:
        lines.append(f"\nIts prose {item.source_section_id} is no longer in the document.")
    else:
        lines.append(f"\nIts prose, line {source.start_line}:\n{source.content.strip()}")
    reply = Ledger(document).get(item.request_key) if item.request_key else None
    if reply:
        lines.append(f"\nThe teacher's reply:\n{reply.text}")
    return _escaped("\n".join(lines))


def replies(document: Document, section_id: str) -> RenderableType:
    """Every reply about one prose section in the ledger, readable or not."""
    lines, prose = [], prose_by_id(document)
    for entry in Ledger(document).entries():
        facts = entry["facts"]
        source = prose.get(facts.get("section_id", ""))
        if source and source.section_id == section_id:
            lines.append(
                f"{entry['at']} {redact(str(facts.get('teacher')))}, {facts.get('strategy')}:\n{entry['text']}\n"
            )
    return _escaped("\n".join(lines) or "No requests were made about this section.")


def coverage(path: Path, found: Coverage) -> RenderableType:
    """What `synth coverage` prints: totals, a table of the sections, then what is to be done."""
    totals = found.totals
    if not totals.sentences and not found.gone:
        return _escaped(f"{path}: no sentences to ask about.")
    parts: list[RenderableType] = [
        f"{path}: {totals.asked_about} of {totals.sentences} sentences are asked about ({totals.own} by pairs of the "
        f"document, {totals.asked_about - totals.own} synthesised)."
    ]
    if found.sections:
        table = Table("line", "section", "sentences", "asked about")
        for section in found.sections:
            asked_about = sum(bool(sentence.pairs) for sentence in section.sentences)
            table.add_row(str(section.line), _escaped(section.title), str(len(section.sentences)), str(asked_about))
        parts.append(table)
    if any(sentence.texts for sentence in found.sentences):
        parts.append(_views_per_sentence(found))
    if totals.asked_about < totals.sentences:
        uncovered = [f"{path}:{sentence.line}: {sentence.text}" for sentence in found.sentences if not sentence.pairs]
        parts += ["Nothing asks about:", *map(_escaped, uncovered)]
    if found.gone:
        listed = [f"{pair.section_id[:8]} {_place(path, pair)}: {pair.question}" for pair in found.gone]
        parts += [
            "These pairs ask about sentences that are gone:",
            *map(_escaped, listed),
            *_removing(path, found.gone),
        ]
    return Group(*parts)


def _views_per_sentence(found: Coverage) -> Table:
    """How many views of each kind every sentence has."""
    table = Table("line", *VIEW_KINDS, "views", "sentence", title="Views of each sentence", title_justify="left")
    for sentence in found.sentences:
        views = sentence.views
        counts = [str(views[kind] or "") for kind in VIEW_KINDS]
        table.add_row(str(sentence.line), *counts, str(views.total()), _escaped(sentence.text))
    return table


def coverage_fields(path: Path, found: Coverage) -> dict[str, Any]:
    """What `synth coverage --json` prints."""
    sections = [
        section._asdict() | {"sentences": [s._asdict() | {"views": dict(s.views)} for s in section.sentences]}
        for section in found.sections
    ]
    return {"path": path, "counts": found.totals, "sections": sections, "gone": found.gone}


def _place(path: Path, pair: Asking) -> str:
    return "staged" if pair.line is None else f"{path}:{pair.line}"


def _removing(path: Path, pairs: Sequence[Asking]) -> list[str]:
    """The commands that remove these pairs."""
    file = shlex.quote(str(path))
    in_file = dict.fromkeys(f"--id {pair.section_id[:8]}" for pair in pairs if pair.line is not None)
    in_staging = dict.fromkeys(pair.section_id[:8] for pair in pairs if pair.line is None)
    return [
        f"To remove {'them' if len(pairs) > 1 else 'it'}: {command} {' '.join([file, *ids])}"
        for command, ids in (("dlm-trl synth revert", in_file), ("dlm-trl synth drop", in_staging))
        if ids
    ]


def _escaped(text: str) -> Text:
    """Someone else's text, escaped before the table is laid out, because escapes are wider."""
    return Text(printable(text))


def _not_shown(items: Sequence[object]) -> list[str]:
    more = len(items) - FAILURES_SHOWN
    return [f"… and {more} more; --json lists all of them."] if more > 0 else []


def as_lines(table: Table) -> str:
    """A table for files and pipes: one line per row, tab-separated."""
    header = [[column.header for column in table.columns]] if table.show_header else []
    rows = [*header, *zip(*(column.cells for column in table.columns), strict=True)]
    lines = ["\t".join(" ".join(str(cell).split()) for cell in row) for row in rows]
    return "\n".join([str(table.title), *lines] if table.title else lines)


def as_json(value: Any) -> str:
    """Dataclasses, prose views, and lists of them, as JSON: paths as strings, NaN and infinities as null."""
    return printable_json(_plain(value), indent=1)


def _plain(value: Any) -> Any:
    match value:
        case Path():
            return str(value)
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case ProseView():
            return _plain(value.model_dump())
        case tuple() if hasattr(value, "_asdict"):
            return _plain(value._asdict())
        case list() | tuple():
            return [_plain(item) for item in value]
        case str() | int() | float() | None:
            return value
    return _plain(asdict(value))
