"""Tasks of rising difficulty: `Curriculum([Mcsb(tokenizer, choices=3), Mcsb(tokenizer, choices=(5, 9))])`.

    rows = curriculum.task.examples(...)                  # the task of the current stage
    curriculum.observe(curriculum.task.metrics(...))      # once per step; True when the next stage begins
    state = curriculum.state_dict()                       # plain JSON, for the TrainerState

The stage is the only thing in online synthesis that depends on history. So call `observe` with the same metrics
(summed over all processes) in every process, and save the state with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlm_trl.notes.errors import UsageError
from dlm_trl.tasks.protocol import Task


@dataclass(slots=True)
class Curriculum:
    """The next stage begins when the mean of `metric` over the last `window` steps of a stage reaches `threshold`.

    The last stage never ends. Raises DlmError (UsageError) without stages, and for a threshold outside (0, 1] or a
    window below 1.
    """

    stages: Sequence[Task]
    threshold: float = 0.9
    window: int = 10  # steps
    metric: str = "accuracy"
    stage: int = field(default=0, init=False)
    recent: list[float] = field(default_factory=list, init=False)  # the metric in this stage, newest last

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("The curriculum has no stages.", hint="Give it at least one task.")
        if not 0 < self.threshold <= 1:
            raise UsageError(f"The curriculum's threshold is {self.threshold}.", hint="Use a value above 0, at most 1.")
        if self.window < 1:
            raise UsageError(f"The curriculum's window is {self.window} steps.", hint="Use 1 or more.")

    @property
    def task(self) -> Task:
        """The task of the current stage."""
        return self.stages[self.stage]

    def observe(self, metrics: Mapping[str, float]) -> bool:
        """Record one step's metrics, the same in every process; returns whether the next step begins a new stage.

        A step without the metric, because all of its rows were rejected, doesn't count.
        """
        if self.metric not in metrics:
            return False
        self.recent = [*self.recent, metrics[self.metric]][-self.window :]
        passed = len(self.recent) == self.window and sum(self.recent) / self.window >= self.threshold
        if not passed or self.stage == len(self.stages) - 1:
            return False
        self.stage, self.recent = self.stage + 1, []
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "recent": list(self.recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises DlmError (UsageError) if the state is at a stage that this curriculum doesn't have."""
        if state["stage"] >= len(self.stages):
            raise UsageError(
                f"The checkpoint is at stage {state['stage'] + 1}, but the curriculum has {len(self.stages)}.",
                hint="Resume with the stages of the original run.",
            )
        self.stage, self.recent = int(state["stage"]), list(state["recent"])[-self.window :]
