"""Limits for the checks of the export: those that all steps share, and those of a running server.

A step's own limits are in its module, and `steps.LIMITS` has all of them. The docs show them.
"""

from dataclasses import dataclass

TIED = 1e-3  # tokens whose logits differ by less are equally likely: rounding alone decides which one is ahead


@dataclass(frozen=True)
class Limit:
    """A bound on a number, from one side; `failing` says what is wrong with a model beyond it.

    step: the name of the export step it applies to, "all" for every step, "serve" for a running server.
    """

    step: str
    name: str
    least: float | None
    most: float | None
    failing: str

    def holds(self, value: float) -> bool:
        """Whether the value is within the limit; NaN never is."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


SAME_PROMPTS = Limit("all", "same prompts", 1, None, "the chat template or the tokenizer was lost or changed")
STOP_TOKENS = Limit("all", "stop tokens", 1, None, "answers never end, or end at the pad token and are empty")
ANSWERS_END = Limit("all", "answers that end, kept", 0.75, None, "the stop token is no longer generated")
METRIC_KEPT = Limit("all", "metric kept", 0.95, None, "the model lost what the run taught it")
SHARED = (SAME_PROMPTS, STOP_TOKENS, ANSWERS_END, METRIC_KEPT)

SERVED_ANSWERS = Limit(
    "serve", "served answers", 0.9, None, "the server runs another model, chat template or quantisation"
)
SERVED_STOPS = Limit("serve", "served stop reasons", 0.9, None, "the server stops elsewhere: at padding, or never")
SERVER = (SERVED_ANSWERS, SERVED_STOPS)
