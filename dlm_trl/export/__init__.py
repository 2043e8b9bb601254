"""From a trained adapter to a served model: merge it, quantise the result, and check each step.

A merge is compared with the adapter's own logits, a quantised model with plain rounding. Each step is an `ExportStep`
in `steps.STEPS`. May import `notes`, `rows`, `models` and `evaluation`.
"""
