"""Share of answers to unanswerable questions that don't abstain, by a rule over English words."""

import datasets
import evaluate

from dlm_trl.evaluation import inventions

_INPUTS = """\
predictions: the answers to questions that the notes don't answer
"""


class Inventions(evaluate.Metric):
    """inventions, low, high: see `dlm_trl.evaluation.inventions.inventions`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inventions.inventions.__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        return inventions.inventions(predictions)
