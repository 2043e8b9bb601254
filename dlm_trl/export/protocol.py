"""A step of the export, as data: what makes it, what checks it, and how its result is described and served.

To add a step (another quantiser, a conversion), write a module with an `ExportStep`, add it to `steps.STEPS`, and add
its description to `step_info.INFO`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlm_trl.export.checks import Check
from dlm_trl.export.limits import Limit
from dlm_trl.export.model_outputs import ModelInputs, ModelOutputs
from dlm_trl.export.step_info import StepInfo
from dlm_trl.models.lineage import Step


@dataclass(frozen=True)
class Comparison:
    """Everything a step needs to compare the models before and after it.

    base: the folder of the adapter's base, None for a step that starts from a model. lineage: all records up to the
    step's own, which comes last. scratch: an empty folder for large intermediate results.
    """

    inputs: ModelInputs
    before: Path
    after: Path
    base: Path | None
    lineage: Sequence[Step]
    scratch: Path


@dataclass(frozen=True)
class ExportStep(StepInfo):
    """One step, from the folder that `previous` wrote to a new folder."""

    previous: str
    """The step whose result it starts from; "train" for an adapter."""
    target: str
    """What `--export` calls its result; also the suffix of the result's folder."""
    limits: tuple[Limit, ...]
    """The limits of its own checks, beside those that all steps share."""
    lossy: bool
    """Whether it loses precision. Then only statistics are checked, so the files must also have the recorded hashes."""
    holds: Callable[[Path], bool]
    """Whether a folder holds a result of this step."""
    check_base: Callable[[Path], None]
    """Raises a DlmError if a model like the base in this folder can't go through the step; runs before training."""
    run: Callable[[Path, Path, Path | None], None]
    """Run it: from a folder, to a folder, with a document or rows to calibrate with."""
    compare: Callable[[Comparison], tuple[list[Check], ModelOutputs]]
    """Load and compare both models; returns the checks, and the outputs of the model after the step."""
