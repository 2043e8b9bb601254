"""What `synth preference` prints, and the preferences in `synth list`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlm_trl.notes import Document
from dlm_trl.notes.escape import printable, redact
from dlm_trl.synth.apply import resolve_source
from dlm_trl.synth.ledger import Ledger
from dlm_trl.synth.preference import PreferenceSynthesis
from dlm_trl.synth.preference_staging import Preference, applied_preferences, staged_preferences
from dlm_trl.synth.show import losses

SHOWN = 30  # failures
# For the stages in which answers are lost, what to change.
_ADVICE = {
    ("duplicate", "threshold"): "the judge finds both answers as good. Raise --temp, or lower --min-gap.",
    ("judge", "grounding"): "neither answer is right by the prose. Try a larger teacher, or another --judge.",
    (
        "answer",
        "ending",
    ): "the answers are cut off, or have numbers that the text doesn't have. Raise --max-new-tokens.",
    ("guard",): "the answers can't be written into a document, see the reasons above.",
}


def outcome(run: PreferenceSynthesis) -> RenderableType:
    """A run: its questions and requests, what was lost and why, and what was staged."""
    counts = run.counts
    skipped = "".join(f", {count} not asked ({reason})" for reason, count in run.skipped.items())
    lines = [
        f"{run.path}: teacher {run.teacher}, judge {run.judge}",
        f"questions {counts.sections}{skipped}; requests {counts.sent}, from the ledger {counts.from_ledger}, failed "
        f"{counts.failed}; answered twice {counts.generated}, preferences {counts.kept}",
    ]
    parts: list[RenderableType] = [_text("\n".join(lines))]
    parts += [_text(f"- section {failure.section_id[:8]}: {failure.reason}") for failure in run.failures[:SHOWN]]
    if run.losses:
        parts += [losses(run.losses), "--json lists all of them."]
    cost = "" if run.cost is None else f", cost {run.cost:.4f}"
    used = f"{run.usage.prompt_tokens:,} prompt and {run.usage.completion_tokens:,} new tokens"
    parts.append(f"{used} in {run.seconds:.1f} s{cost}.")
    parts += [run.stopped] if run.stopped else []
    if run.applied:
        parts.append(_text(f"Applied {run.applied} preferences to {run.path}."))
    elif run.preferences:
        parts.append(
            _text(
                f"Staged {len(run.preferences)} preferences. To see them: dlm-trl synth list {run.path}. To write them "
                f"into the file: dlm-trl synth apply {run.path}."
            )
        )
    else:
        parts.append(_text(_advice(run)))
    return Group(*parts)


def listed(document: Document) -> list[tuple[str, Preference]]:
    """The document's judged preferences and the staged ones, each with its state."""
    staged = [("staged", item) for item in staged_preferences(document)]
    return [*(("applied", item) for item in applied_preferences(document)), *staged]


def table(items: Sequence[tuple[str, Preference]]) -> Table:
    """A row for each preference, with its state."""
    result = Table("id", "state", "teacher", "judge", "scores", "prompt", "chosen", "rejected")
    for state, item in items:
        scores = f"{item.chosen_score:.2f} > {item.rejected_score:.2f}"
        cells = [item.section_id[:8], state, redact(item.teacher) or "unknown", redact(item.judge), scores]
        result.add_row(*map(_text, [*cells, item.prompt, item.chosen, item.rejected]))
    return result


def whole(document: Document, item: Preference, state: str) -> RenderableType:
    """One preference with its origin, what its scores say, its prose and the teacher's replies."""
    gap = item.chosen_score - item.rejected_score
    lines = [
        f"{item.section_id} ({state})",
        f"preference, teacher {redact(item.teacher) or 'unknown'}, judge {redact(item.judge)}, {item.mined_at}",
        f"\nprompt: {item.prompt}\nchosen: {item.chosen}\nrejected: {item.rejected}\n",
        f"margin {item.chosen_score:.2f} chosen, {item.rejected_score:.2f} rejected: how much likelier the judge finds "
        'the answer than "I don\'t know.", with the prose, in nats per token.',
        f"gap {gap:.2f}: chosen minus rejected, which --min-gap limits.",
    ]
    if source := resolve_source(document, item.source_section_id):
        lines.append(f"\nIts prose, line {source.start_line}:\n{source.content.strip()}")
    elif item.source_section_id:
        lines.append(f"\nIts prose {item.source_section_id} is no longer in the document.")
    ledger = Ledger(document)
    replies = [reply for key in item.request_keys if (reply := ledger.get(key))]
    lines += [f"\nThe teacher's reply:\n{reply.text}" for reply in replies]
    return _text("\n".join(lines))


def as_plain(items: Sequence[tuple[str, Preference]], state: str) -> list[dict[str, Any]]:
    """The preferences in this state, with all that is known of them, for JSON."""
    return [{"section_id": item.section_id, **asdict(item)} for of, item in items if of == state]


def _advice(run: PreferenceSynthesis) -> str:
    """Why nothing is new, and what to do about it."""
    counts = run.counts
    if counts.kept:
        return f"All {counts.kept} preferences were already there. To see them: dlm-trl synth list {run.path}."
    if not counts.sections:
        return "No question was asked: each has a preference already, is held out, or has no prose about it."
    if not counts.generated:
        return "No question has two answers, see above. Finished replies are kept: rerun the same command to resume."
    worst = max(_ADVICE, key=lambda names: sum(getattr(counts, name) for name in names))
    return f"No preference. Main reason: {_ADVICE[worst]}"


def _text(text: str) -> Text:
    return Text(printable(text))
