"""The steps of the export by name, and the chain of steps that leads to a target.

[step.name for step in chain("awq")]      # ["merge", "awq"]
"""

from dlm_trl.export.awq_step import AWQ
from dlm_trl.export.limits import SERVER, SHARED
from dlm_trl.export.merge_step import MERGE
from dlm_trl.export.protocol import ExportStep
from dlm_trl.notes.errors import UsageError

STEPS: dict[str, ExportStep] = {step.name: step for step in (MERGE, AWQ)}
LIMITS = (*SHARED, *(limit for step in STEPS.values() for limit in step.limits), *SERVER)


def chain(target: str) -> list[ExportStep]:
    """The steps from an adapter to this target, in order. Raises DlmError (UsageError) for an unknown target."""
    step = next((step for step in STEPS.values() if step.target == target), None)
    if step is None:
        targets = ", ".join(step.target for step in STEPS.values())
        raise UsageError(f"Can't export to {target!r}.", hint=f"Choose one of: {targets}.")
    steps = [step]
    while steps[0].previous in STEPS:
        steps.insert(0, STEPS[steps[0].previous])
    return steps
