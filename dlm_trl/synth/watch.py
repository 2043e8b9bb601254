"""Progress of a run on stderr: a progress bar in a terminal, otherwise a line every ten seconds.

with Watch() as watch:
    for outcome in synthesize_all(paths, settings, on_reply=watch):
        with watch.hidden():
            print(outcome)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dlm_trl.notes.terminal import console
from dlm_trl.synth.replies import parse_reply
from dlm_trl.teachers.protocol import Reply

SECONDS = 10.0


class Watch:
    """An `on_reply` callback for `synthesize` that shows requests, pairs per second and tokens."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._started = self._last = time.monotonic()
        self._done = self._pairs = self._tokens = 0
        self._seconds = 0.0
        self._bar = Progress(
            TextColumn("requests"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("requests", total=None, rates="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the bar while the caller prints."""
        self._bar.stop()
        yield
        self._bar.start()

    def __call__(self, reply: Reply, waiting: int) -> None:
        self._done += 1
        self._seconds += reply.seconds
        self._pairs += len(parse_reply(reply.text).pairs)
        self._tokens += reply.usage.prompt_tokens + reply.usage.completion_tokens
        now = time.monotonic()
        rates = f"{self._pairs / (now - self._started):.1f} pairs/s, {self._tokens:,} tokens"
        self._bar.update(self._task, completed=self._done, total=self._done + waiting, rates=rates)
        if not self._console.is_terminal and now - self._last > SECONDS:
            self._last = now
            # Replies of one batch arrive together, each with its share of the batch's seconds.
            left = min(now - self._started, self._seconds) / self._done * waiting
            self._console.print(f"{self._done} of {self._done + waiting} requests, {rates}, {left:.0f} s left")
