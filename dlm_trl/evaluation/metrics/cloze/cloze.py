"""Accuracy of picking the option whose log-probability gains most from the question."""

import datasets
import evaluate

from dlm_trl.evaluation.cloze import cloze_scores

_CITATION = """\
@inproceedings{brown2020language,
  title={Language Models are Few-Shot Learners},
  author={Brown, Tom B. and others},
  booktitle={Advances in Neural Information Processing Systems},
  year={2020}
}
"""
_INPUTS = """\
predictions: for each question, the log-probability of each option after the question
unconditional: for each question, the log-probability of each option without the question
references: the index of the right option of each question
"""


class Cloze(evaluate.Metric):
    """accuracy, low, high, chance: see `dlm_trl.evaluation.cloze.cloze_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=cloze_scores.__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": scores, "unconditional": scores, "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: list[list[float]], unconditional: list[list[float]], references: list[int]
    ) -> dict[str, float]:
        return cloze_scores(predictions, unconditional, references)
