"""The step from an adapter to a merged 16-bit model, for `steps.STEPS`: how it is checked, described and served."""

import shutil
from pathlib import Path

from dlm_trl.export.adapter import is_adapter
from dlm_trl.export.checks import (
    Check,
    answer_checks,
    check,
    logit_deviation,
    logit_differences,
    metric_checks,
)
from dlm_trl.export.limits import Limit
from dlm_trl.export.merge import check_stored_16bit, merge
from dlm_trl.export.model_outputs import ModelOutputs, compute_outputs
from dlm_trl.export.protocol import Comparison, ExportStep
from dlm_trl.export.sidecar_files import quantization_config
from dlm_trl.export.step_info import MERGE_INFO
from dlm_trl.models import lineage

MEAN_32 = Limit(
    "merge", "logit difference, mean, float32", None, 1e-4, "the merge is wrong, or used other base weights"
)
LARGEST_32 = Limit("merge", "logit difference, largest, float32", None, 2e-3, "one matrix was left out or added twice")
# SmolLM2-135M: 0.008 for a correct merge, at least 0.0135 with one matrix of the adapter left out.
MEAN_16 = Limit(
    "merge",
    "logit difference, mean to standard deviation, 16 bit",
    None,
    0.011,
    "the merge is wrong, or used quantised weights",
)
# SmolLM2-135M: 0.05 to 0.16 for a correct merge.
LARGEST_16 = Limit(
    "merge",
    "logit difference, largest to standard deviation, 16 bit",
    None,
    0.25,
    "one matrix was left out or added twice",
)
SAME_TOKEN = Limit("merge", "same most likely token", 0.98, None, "the merge is wrong, or used other base weights")
SAME_ANSWERS = Limit("merge", "same greedy answers", 0.9, None, "small differences add up to other answers")


def logit_checks(before: ModelOutputs, after: ModelOutputs, dtype: str) -> list[Check]:
    """Differences over all positions and the whole vocabulary; dtype: what the merged weights are stored in.

    Rounding to 16 bits moves logits in proportion to their size, which differs between models, so those differences
    are relative to the standard deviation of the logits.
    """
    mean, largest, same = logit_differences(before, after)
    if dtype == "float32":
        checks = [check(MEAN_32, mean), check(LARGEST_32, largest)]
    else:
        deviation = logit_deviation(before)
        checks = [check(MEAN_16, mean / deviation), check(LARGEST_16, largest / deviation)]
    return [*checks, check(SAME_TOKEN, same)]


def _compare(comparison: Comparison) -> tuple[list[Check], ModelOutputs]:
    inputs, before, base, scratch = comparison.inputs, str(comparison.before), comparison.base, comparison.scratch
    adapter = compute_outputs(inputs, before, scratch / "before", base)
    merged = compute_outputs(inputs, str(comparison.after), scratch / "after")
    checks = [
        *logit_checks(adapter, merged, comparison.lineage[-1]["dtype"]),
        *answer_checks(adapter.answers, merged.answers, SAME_ANSWERS),
        *metric_checks(adapter.metrics, merged.metrics),
    ]
    trained = lineage.last(comparison.lineage, "train")
    if trained and (quantization := trained.get("quantization")):
        as_trained = compute_outputs(inputs, before, scratch / "quantized", base, quantization)
        mean, largest, _ = logit_differences(as_trained, merged)
        name = f"logit difference to the base in {quantization}"
        checks += [Check(f"{name}, mean", mean), Check(f"{name}, largest", largest)]
        shutil.rmtree(as_trained.folder)
    return checks, merged


def _holds(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not is_adapter(folder) and quantization_config(folder) is None


def _run(before: Path, after: Path, calibration: Path | None) -> None:
    merge(before, after, progress=True)


MERGE = ExportStep(
    **vars(MERGE_INFO),
    previous="train",
    target="merged",
    limits=(MEAN_32, LARGEST_32, MEAN_16, LARGEST_16, SAME_TOKEN, SAME_ANSWERS),
    lossy=False,
    holds=_holds,
    check_base=check_stored_16bit,
    run=_run,
    compare=_compare,
)
