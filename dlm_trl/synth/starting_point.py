"""What a run starts from: `starting_point(document, settings, teacher)`, the requests that are to be sent now."""

from __future__ import annotations

from dataclasses import dataclass

from dlm_trl.notes import Document
from dlm_trl.rows.views import ProseView, live_views, read_views
from dlm_trl.synth.coverage import Coverage, coverage
from dlm_trl.synth.plan import PlannedRequest, plan
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.staging import Staged, applied, staged
from dlm_trl.synth.view_plan import existing_views, plan_views
from dlm_trl.teachers.protocol import TeacherInfo


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """requests: for what is missing, some of which the ledger may answer. staged, texts, coverage: what is there."""

    requests: list[PlannedRequest]
    staged: list[Staged]
    texts: list[ProseView]
    coverage: Coverage


def starting_point(
    document: Document, settings: SynthSettings, teacher: TeacherInfo, apply_now: bool = False
) -> StartingPoint:
    """Raises DlmError as `plan` and `plan_views` do."""
    known, texts = staged(document), live_views(document, read_views(document))
    before = coverage(document, known, texts)
    if settings.views is not None:
        existing = existing_views(before, [*applied(document), *known], texts)
        return StartingPoint(plan_views(document, settings, teacher, existing), known, texts, before)
    only = None
    if settings.uncovered:
        # A run that was stopped after staging, before it applied its pairs, has to apply them when it is repeated.
        unfinished = {item.section_id for item in known if apply_now and item.teacher == teacher.reference}
        only = before.uncovered(ignoring=unfinished)
    return StartingPoint(plan(document, settings, teacher, only), known, texts, before)
