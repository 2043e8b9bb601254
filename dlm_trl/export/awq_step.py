"""The step from a 16-bit model to 4 bits by AWQ, for `steps.STEPS`: how it is checked, described and served."""

from dataclasses import replace
from pathlib import Path

from dlm_trl.export import awq
from dlm_trl.export.adapter import is_adapter
from dlm_trl.export.checks import (
    Check,
    answer_checks,
    check,
    divergence_checks,
    logit_differences,
    metric_checks,
    perplexity_checks,
)
from dlm_trl.export.limits import Limit
from dlm_trl.export.model_outputs import ModelOutputs, compute_outputs
from dlm_trl.export.protocol import Comparison, ExportStep
from dlm_trl.export.sidecar_files import quantization_config
from dlm_trl.export.step_info import AWQ_INFO
from dlm_trl.notes.errors import UsageError

DIVERGENCE = Limit(
    "awq", "divergence, AWQ to rounding", None, 1, "AWQ is worse than plain rounding: the calibration doesn't fit"
)
SMOOTHED = Limit(
    "awq", "smoothed groups of layers", 1, None, "the quantiser smoothed nothing, so this is plain rounding"
)
WRITTEN = Limit("awq", "bytes, written to predicted", None, 1.01, "layers were left in 16 bit, or written twice")
PREDICTED = Limit("awq", "bytes, predicted to written", None, 1.01, "layers are missing")


def _compare(comparison: Comparison) -> tuple[list[Check], ModelOutputs]:
    inputs, before, scratch = comparison.inputs, str(comparison.before), comparison.scratch
    record = comparison.lineage[-1]
    merged = compute_outputs(inputs, before, scratch / "before")
    logits_only = replace(inputs, chats=(), questions={}, question_sets={})
    rounded = compute_outputs(logits_only, before, scratch / "rounded", round_to=record["group_size"])
    quantized = compute_outputs(inputs, str(comparison.after), scratch / "after")
    mean, largest, same = logit_differences(merged, quantized)
    written, predicted = record["bytes"]["written"], record["bytes"]["predicted"]
    checks = [
        *divergence_checks(inputs.text_names, merged, rounded, quantized, DIVERGENCE),
        *perplexity_checks(merged.nll, rounded.nll, quantized.nll),
        *metric_checks(merged.metrics, quantized.metrics),
        *answer_checks(merged.answers, quantized.answers),
        Check("logit difference, mean", mean),
        Check("logit difference, largest", largest),
        Check("same most likely token", same),
        check(SMOOTHED, record["smoothed"]),
        check(WRITTEN, written / predicted, before=predicted, after=written),
        check(PREDICTED, predicted / written),
    ]
    return checks, quantized


def _holds(folder: Path) -> bool:
    return not is_adapter(folder) and (quantization_config(folder) or {}).get("quant_method") == "awq"


def _check_base(folder: Path) -> None:
    awq.check_installed()
    awq.check(folder)


def _run(before: Path, after: Path, calibration: Path | None) -> None:
    if calibration is None:
        raise UsageError("AWQ needs text to calibrate on.", hint="Give a document or a file of rows: --calibration.")
    awq.quantize(before, after, calibration, progress=True)


AWQ = ExportStep(
    **vars(AWQ_INFO),
    previous="merge",
    target="awq",
    limits=(DIVERGENCE, SMOOTHED, WRITTEN, PREDICTED),
    lossy=True,
    holds=_holds,
    check_base=_check_base,
    run=_run,
    compare=_compare,
)
