"""The limits that a step of the export must keep; the docs show this table, and a test keeps them equal."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Limit:
    """A number and the side on which it has to be; `failing` says what is wrong with a model beyond it."""

    step: Literal["merge", "awq", "both", "serve"]
    name: str
    least: float | None
    most: float | None
    failing: str

    def holds(self, value: float) -> bool:
        """Whether the value keeps the limit; NaN keeps none."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


LIMITS = {
    limit.name: limit
    for limit in (
        Limit("both", "same prompts", 1, None, "the chat template or the tokenizer was lost or changed"),
        Limit("both", "stop tokens", 1, None, "answers never end, or end at the pad token and are empty"),
        Limit("both", "answers that end, kept", 0.75, None, "the stop token is not produced any more"),
        Limit("both", "metric kept", 0.95, None, "what the run taught was lost on the way"),
        Limit("merge", "logit difference, mean, float32", None, 1e-4, "merged wrongly, or into other weights"),
        Limit("merge", "logit difference, largest, float32", None, 2e-3, "one matrix was left out or added twice"),
        Limit(
            "merge",
            # SmolLM2-135M: 0.008 for a right merge, 0.0135 at least where one matrix of the adapter was left out.
            "logit difference, mean to standard deviation, 16 bit",
            None,
            0.011,
            "merged into quantised weights, or wrongly",
        ),
        Limit(
            "merge",
            "logit difference, largest to standard deviation, 16 bit",  # SmolLM2-135M: 0.05 to 0.16 for a right merge
            None,
            0.25,
            "one matrix was left out or added twice",
        ),
        Limit("merge", "same most likely token", 0.98, None, "merged wrongly, or into other weights"),
        Limit("merge", "same greedy answers", 0.9, None, "small differences that add up in what the model says"),
        Limit("awq", "divergence, AWQ to rounding", None, 1, "AWQ is worse than plain rounding: wrong calibration"),
        Limit("awq", "smoothed groups of layers", 1, None, "the quantiser smoothed nothing: this is plain rounding"),
        Limit("awq", "bytes, written to predicted", None, 1.01, "layers were left in 16 bit, or written twice"),
        Limit("awq", "bytes, predicted to written", None, 1.01, "layers are missing"),
        Limit("serve", "served answers", 0.9, None, "the server has another model, chat template or quantisation"),
        Limit("serve", "served stop reasons", 0.9, None, "the server stops elsewhere: at padding, or never"),
    )
}
