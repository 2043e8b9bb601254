"""Tasks of rising difficulty: `Curriculum([Mcsb(tokenizer, choices=3), Mcsb(tokenizer, choices=(5, 9))])`.

    rows = curriculum.task.examples(...)                  # the task of the stage it is at
    curriculum.observe(curriculum.task.metrics(...))      # once a step; True when the next stage begins
    state = curriculum.state_dict()                       # plain JSON, for the TrainerState

The stage is the one thing in online synthesis that depends on history. So whoever calls `observe` gives every process
the same numbers (summed over all of them), and keeps the state with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlm_trl.notes.errors import UsageError
from dlm_trl.tasks.protocol import Task


@dataclass(slots=True)
class Curriculum:
    """The next stage begins when `metric`, averaged over the last `window` steps of this one, reaches `threshold`.

    The last stage stays. Raises DlmError (UsageError) for no stages, and for a threshold that is never or always met.
    """

    stages: Sequence[Task]
    threshold: float = 0.9
    window: int = 10  # steps
    metric: str = "accuracy"
    stage: int = field(default=0, init=False)
    recent: list[float] = field(default_factory=list, init=False)  # of this stage, the newest last

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("A curriculum has no stages.", hint="Give it at least one task.")
        if not 0 < self.threshold <= 1:
            raise UsageError(f"A curriculum's threshold is {self.threshold}.", hint="Give a share above 0, up to 1.")
        if self.window < 1:
            raise UsageError(f"A curriculum's window is {self.window} steps.", hint="Give 1 or more.")

    @property
    def task(self) -> Task:
        """The task of the stage it is at."""
        return self.stages[self.stage]

    def observe(self, metrics: Mapping[str, float]) -> bool:
        """Take in one step's metrics, the same in every process; whether the next stage begins with the next step.

        A step that has no value (all of its rows were rejected) does not count.
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
        """Raises DlmError (UsageError) for a state of a curriculum with more stages than this one has."""
        if state["stage"] >= len(self.stages):
            raise UsageError(
                f"The checkpoint is at stage {state['stage'] + 1} of its curriculum; this one has {len(self.stages)}.",
                hint="Resume with the stages that the run began with.",
            )
        self.stage, self.recent = int(state["stage"]), list(state["recent"])[-self.window :]
