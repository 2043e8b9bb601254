"""What a run leaves behind: `write(document, kept, lost, apply_now)` stages and applies pairs, and stores the rest."""

from __future__ import annotations

from collections.abc import Sequence

from dlm_trl.notes import Document
from dlm_trl.rows.views import ProseView, add_views, line_of_each
from dlm_trl.synth.apply import apply
from dlm_trl.synth.coverage import Totals, coverage
from dlm_trl.synth.ledger import now
from dlm_trl.synth.pairs import Candidate, scored
from dlm_trl.synth.rejected import Rejected, keep
from dlm_trl.synth.report import Loss
from dlm_trl.synth.staging import Staged, as_staged, stage_items, staged


def write(
    document: Document, kept: Sequence[Candidate], lost: Sequence[tuple[Candidate, Loss]], apply_now: bool
) -> tuple[list[Staged], list[ProseView], int, Totals]:
    """Stage these pairs, and apply them if requested; prose views and rejected pairs go to the store.

    lost: the rejected ones, with their reasons.

    Returns the new pairs, the new prose views, the number of pairs applied, and the coverage.
    """
    at, kept = now(), _in_file_order(kept, document)
    pairs = [candidate for candidate in kept if not candidate.is_prose]
    rejected = [(candidate, loss) for candidate, loss in lost if loss.stage != "guard" and not candidate.is_prose]
    # Together, because it looks for the sentences of all of them in the same prose.
    items = as_staged(document, [*pairs, *(candidate for candidate, _ in rejected)], at)
    new = stage_items(document, items[: len(pairs)])
    texts = [_prose_view(document, candidate, at) for candidate in kept if candidate.is_prose]
    stored = add_views(document, texts) if texts else []
    # Keep the rejected pairs that a file can contain, and forget those that are accepted now.
    refused = zip(items[len(pairs) :], rejected, strict=True)
    losses = [Rejected(item, loss.stage, loss.reason) for item, (_, loss) in refused]
    if items:
        keep(document, losses, [item.section_id for item in items[: len(pairs)]])
    count = 0
    if apply_now:
        assert document.path is not None
        accepted = {candidate.pair for candidate in pairs}  # may have been staged by an earlier run that was killed
        ids = [item.section_id for item in staged(document) if item.pair in accepted]
        done = apply(document.path, ids)
        document, count = done.document, done.count
    return new, stored, count, coverage(document, staged(document)).totals


def _prose_view(document: Document, candidate: Candidate, at: str) -> ProseView:
    assert candidate.kind is not None
    section = next(section for section in document.sections if section.section_id == candidate.section_id)
    return ProseView(
        section_id=candidate.section_id,
        line=line_of_each(section)[candidate.about[0]],
        kind=candidate.kind,
        text=candidate.pair.answer,
        facts=candidate.about,
        teacher=candidate.teacher,
        at=at,
        request_key=candidate.request_key,
        scores=None if candidate.scores is None else scored(candidate.scores),
    )


def _in_file_order(kept: Sequence[Candidate], document: Document) -> list[Candidate]:
    position = {section.section_id: i for i, section in reversed(list(enumerate(document.sections)))}
    return sorted(kept, key=lambda candidate: position[candidate.section_id])
