"""Token F1 of a model's answers, as a share of that of a base with the notes in its prompt."""

from dataclasses import asdict

import datasets
import evaluate

from dlm_trl.evaluation import open_book_share

_CITATION = """\
@book{efron1993introduction,
  title={An Introduction to the Bootstrap},
  author={Efron, Bradley and Tibshirani, Robert J.},
  publisher={Chapman and Hall},
  year={1993}
}
"""
_INPUTS = """\
predictions: the model's answers, without the notes
open_book: the base's answers to the same questions, with the notes in its prompt
references: the expected answer of each
seed: of the bootstrap
"""


class OpenBookShare(evaluate.Metric):
    """share, low, high, f1, open_book_f1, questions, missing: see `dlm_trl.evaluation.open_book_share`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=open_book_share.open_book_share.__doc__,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "open_book": text, "references": text}),
        )

    def _compute(
        self, predictions: list[str], open_book: list[str], references: list[str], seed: int = 0
    ) -> dict[str, float | int | str | None]:
        return asdict(open_book_share.open_book_share(predictions, open_book, references, seed))
