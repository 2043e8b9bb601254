"""Exact match and token F1 of free-text answers, as in SQuAD, for any script."""

import datasets
import evaluate

from dlm_trl.evaluation.answers import answer_scores

_CITATION = """\
@inproceedings{rajpurkar2016squad,
  title={{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
  author={Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
  booktitle={Conference on Empirical Methods in Natural Language Processing},
  year={2016}
}
"""
_INPUTS = """\
predictions: the answers to score
references: the expected answer of each
"""


class SquadAnswers(evaluate.Metric):
    """exact_match, f1: see `dlm_trl.evaluation.answers.answer_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=answer_scores.__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return answer_scores(predictions, references)
