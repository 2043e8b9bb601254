"""Accuracy and consistency of answers to multiple-choice questions, asked with all rotations of their options."""

import datasets
import evaluate

from dlm_trl.evaluation.mcsb import mcsb_scores

_CITATION = """\
@inproceedings{robinson2023leveraging,
  title={Leveraging Large Language Models for Multiple Choice Question Answering},
  author={Robinson, Joshua and Rytting, Christopher Michael and Wingate, David},
  booktitle={International Conference on Learning Representations},
  year={2023}
}
"""
_INPUTS = """\
predictions: for each question, the picked option (not its label) for each rotation of its options
references: the right option of each question
"""


class Mcsb(evaluate.Metric):
    """accuracy, low, high, chance, ppa, unchanged: see `dlm_trl.evaluation.mcsb.mcsb_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=mcsb_scores.__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("string")), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[list[str]], references: list[str]) -> dict[str, float]:
        return mcsb_scores(predictions, references)
