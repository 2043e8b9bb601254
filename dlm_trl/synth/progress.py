"""What a run tells while it lasts: `synthesize(path, settings, progress=Watch())`.

    class Count(Progress):
        def replied(self, reply: Reply, waiting: int) -> None:
            print(waiting, "to go")

`Progress` itself ignores everything; `watch.Watch` shows it on stderr.
"""

from __future__ import annotations

from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.report import Synthesis
from dlm_trl.teachers.protocol import Reply


class Progress:
    """Override the methods that you need."""

    def started(self, outcome: Synthesis) -> None:
        """A run for a document begins; the counts and losses of its outcome grow while it lasts."""

    def asked(self, waiting: int) -> None:
        """Requests are sent, and this number is to be answered."""

    def replied(self, reply: Reply, waiting: int) -> None:
        """The teacher answered a request, and this number of requests is still to be answered."""

    def batched(self, batch_id: str, done: int, total: int) -> None:
        """A batch is at the provider, which has answered `done` of its `total` requests."""

    def judged(self, done: int, of: int) -> None:
        """The judge has scored `done` pairs of those that were sent to it together; 0 when it begins."""

    def kept(self, pair: QAPair) -> None:
        """A pair passed all checks."""
