"""Ask in batches: `BatchedTeacher(teacher, ledger, progress).generate(requests)`, a teacher like any other.

Each batch is in the ledger before it is submitted, and its id as soon as the provider has sent it. A run that was
stopped finds its batches there and waits for them, so no request is submitted twice. If it was killed in between, it
looks for the batch at the provider.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from datetime import datetime

from dlm_trl.models.ranks import world_size
from dlm_trl.notes import read
from dlm_trl.notes.errors import LedgerError, TeacherError, UsageError
from dlm_trl.synth.batch_records import BatchRecord, submitted, to_submit, unanswered
from dlm_trl.synth.ledger import Ledger, now, run_lock
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.settings import SynthSettings
from dlm_trl.synth.starting_point import starting_point
from dlm_trl.teachers.batches import BatchState, BatchTeacher, Result
from dlm_trl.teachers.protocol import Reply, Request, Teacher

logger = logging.getLogger(__name__)

# Seconds between two polls: at first, at most, and by what factor they grow.
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 120.0
GROWTH = 1.5


class BatchedTeacher:
    """A `Teacher` that submits its requests in batches and waits for their replies.

    fresh: don't collect batches of earlier runs. progress: is told about each poll.
    """

    def __init__(self, teacher: BatchTeacher, ledger: Ledger, progress: Progress, fresh: bool = False) -> None:
        self.reference, self.revision, self.context = teacher.reference, teacher.revision, teacher.context
        self._teacher = teacher
        self._ledger = ledger
        self._progress = progress
        self._fresh = fresh

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """See `TeacherInfo.count_tokens`."""
        return self._teacher.count_tokens(messages)

    def generate(self, requests: Sequence[Request]) -> Generator[Reply]:
        """See `Teacher.generate`. A request that fails through no fault of its own is asked once more."""
        waiting = {request.key: request for request in requests}
        batches, is_repeat = self.submit(requests), False
        while batches:
            failed: dict[str, Result] = {}
            problems = []
            for batch in batches:
                state, results = self._ended(batch)
                for reply in (result.reply for result in results):
                    # A batch may also have requests about prose that was edited since.
                    if reply.error is None and reply.key in waiting:
                        del waiting[reply.key]
                        yield reply
                failures = self._failures(batch, state, results)
                failed |= failures
                if state.is_too_large and batch.size > 1:
                    yield from self._in_halves([waiting.pop(key) for key in [*waiting] if key in failures])
                elif state.problem is not None:
                    problems.append(f"{self.reference} refused the batch {batch.id}: {state.problem.rstrip('.')}.")
            if problems:
                raise TeacherError(problems[0], hint="The same command submits its requests again.")
            again = [request for key, request in waiting.items() if failed[key].may_repeat and not is_repeat]
            yield from (failed[key].reply for key in waiting.keys() - {request.key for request in again})
            if again:
                logger.warning("%d requests of the batch failed or expired: asking them once more.", len(again))
            waiting = {request.key: request for request in again}
            batches, is_repeat = self._submit(again), True

    def _in_halves(self, requests: Sequence[Request]) -> Generator[Reply]:
        logger.warning("%s has no room for the batch: asking in two, one after the other.", self.reference)
        middle = (len(requests) + 1) // 2
        for half in (requests[:middle], requests[middle:]):
            yield from self.generate(half)

    def _failures(self, batch: BatchRecord, state: BatchState, results: Sequence[Result]) -> dict[str, Result]:
        """What became of the requests that this batch has no reply to; it won't be asked for them again."""
        replied = {result.reply.key for result in results if result.reply.error is None}
        without = "The batch ended without a reply to this request."
        failed = {key: Result(Reply(key, error=without), not state.is_cancelled) for key in batch.open - replied}
        failed |= {result.reply.key: result for result in results if result.reply.key in failed}
        if failed:
            self._ledger.record_batch(unanswered(batch.label, failed))
        return failed

    def submit(self, requests: Sequence[Request]) -> list[BatchRecord]:
        """Submit the requests that aren't in a batch yet; returns the batches of all of them."""
        batches = [] if self._fresh else self._ledger.batches.of(request.key for request in requests)
        batches = [batch for batch in batches if self._may_exist(batch)]
        taken = set().union(*(batch.open for batch in batches))
        return batches + self._submit([request for request in requests if request.key not in taken])

    def _submit(self, requests: Sequence[Request]) -> list[BatchRecord]:
        if not requests:
            return []
        self._teacher.settle(requests[0])
        batches = []
        for part in self._teacher.parts(requests):
            line = to_submit([request.key for request in part], now())
            self._ledger.record_batch(line)
            batch_id = self._teacher.submit(part, line["batch"])
            self._ledger.record_batch(submitted(line["batch"], batch_id))
            batches.append(self._ledger.batches[line["batch"]])
        return batches

    def _may_exist(self, batch: BatchRecord) -> bool:
        if self._candidates(batch):
            return True
        self._ledger.record_batch(unanswered(batch.label, batch.open))
        return False

    def _candidates(self, batch: BatchRecord) -> list[str]:
        """The id of this batch, or those that may be its id if the run ended before it was recorded."""
        if batch.id is not None:
            return [batch.id]
        found = self._teacher.find(batch.label, datetime.fromisoformat(batch.at), batch.size)
        return [batch_id for batch_id in found if batch_id not in self._ledger.batches.ids]

    def _ended(self, batch: BatchRecord) -> tuple[BatchState, list[Result]]:
        """Wait until the batch has ended; how it ended, and its results."""
        for batch_id in self._candidates(batch):
            state = self._wait(batch_id)
            results = [] if state.problem is not None else list(self._teacher.collect(batch_id))
            if batch.id is None and any(result.reply.key in batch.open for result in results):
                self._ledger.record_batch(submitted(batch.label, batch_id))
            if batch.id is not None:
                return state, results
        return BatchState(0, batch.size, has_ended=True), []  # it was never submitted

    def _wait(self, batch_id: str) -> BatchState:
        pause = FIRST_PAUSE
        try:
            while True:
                if state := self._teacher.poll(batch_id):
                    self._progress.batched(batch_id, state.done, state.total)
                    if state.has_ended:
                        return state
                time.sleep(pause)
                pause = min(pause * GROWTH, LONGEST_PAUSE)
        except KeyboardInterrupt:
            rerun = "rerun the same command, without --fresh," if self._fresh else "rerun the same command"
            logger.warning("The batch %s goes on at the provider: %s to collect its replies.", batch_id, rerun)
            raise


def batch_teacher(teacher: Teacher) -> BatchTeacher:
    """This teacher. Raises DlmError (UsageError) if it can't be asked in batches, or not in several processes."""
    if world_size() > 1:
        raise UsageError("--batch takes one process.", hint="Start it without `accelerate launch`.")
    if not isinstance(teacher, BatchTeacher):
        raise UsageError(f"{teacher.reference} can't be asked in batches.", hint="Leave out --batch.")
    return teacher


def submit_ahead(path: str | os.PathLike[str], settings: SynthSettings, teacher: BatchTeacher, apply_now: bool) -> None:
    """Submit a document's requests without waiting, for a later run to collect."""
    dlm_id = read(path).frontmatter.dlm_id
    with run_lock(dlm_id):
        document = read(path)
        ledger = Ledger(document)
        planned = starting_point(document, settings, teacher, apply_now).requests
        new = [item.request for item in planned if ledger.get(item.request.key) is None]
        BatchedTeacher(teacher, ledger, Progress()).submit(new)


def refuse_batched(ledger: Ledger, keys: Collection[str]) -> None:
    """Raise the error for requests that are in a batch, so that a run without --batch doesn't pay for them again."""
    if batches := ledger.batches.of(keys):
        raise LedgerError(
            f"{len(ledger.batches.open(keys))} of the requests were submitted in a batch at {batches[0].at}.",
            hint="Collect its replies with --batch, or ask and pay again with --fresh.",
            path=ledger.path,
        )
