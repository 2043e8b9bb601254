"""Perplexity of a model on texts; each token is scored once."""

import math

import datasets
import evaluate

from dlm_trl.evaluation.perplexity import perplexity
from dlm_trl.models.load import load_for_inference

_INPUTS = """\
predictions: texts
model: the name of a base model (`tiny`, `hf:org/name`, a folder), or the folder of an adapter
window: maximum context, in tokens
"""


class Perplexity(evaluate.Metric):
    """perplexities: of each text; mean_perplexity: their mean. See `dlm_trl.evaluation.perplexity.perplexity`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=perplexity.__doc__,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str], model: str, window: int = 512) -> dict[str, list[float] | float]:
        weights, tokenizer = load_for_inference(model)
        perplexities = [perplexity(weights, tokenizer, text, window) for text in predictions]
        return {"perplexities": perplexities, "mean_perplexity": math.fsum(perplexities) / len(perplexities)}
