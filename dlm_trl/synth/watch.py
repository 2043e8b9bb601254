"""A run on stderr while it lasts: the requests, the judge and the funnel in a terminal, else a line every ten seconds.

    with Watch() as watch:
        for outcome in synthesize_all(paths, settings, progress=watch):
            with watch.hidden():
                print(outcome)

In a terminal:

    recipes/notes.dlm
      requests ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 205/205 2.4/s, 68,883 tokens
    ⠼ judging  ━━━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━  16/27  27 s left
    72 pairs → question −24 → leak −2 → duplicate −19 → judge −2 → 14 kept, 11 to go
    kept: What is a gentle way to the same end?
    lost: What does the autolyse do? (judge: another sentence answers it as well: I…
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, get_args

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from dlm_trl.notes.escape import printable
from dlm_trl.notes.terminal import console
from dlm_trl.synth.pairs import QAPair
from dlm_trl.synth.progress import Progress
from dlm_trl.synth.report import Counts, Stage, Synthesis
from dlm_trl.teachers.protocol import Reply

SECONDS = 10.0


class Watch(Progress):
    """Shows one run after the other."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._outcome: Synthesis | None = None
        self._live = Live(console=self._console, transient=True, get_renderable=self._shown)
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide it, for the caller to print, until the next run starts."""
        self._live.stop()
        yield

    def started(self, outcome: Synthesis) -> None:
        self._outcome = outcome
        self._begun = time.monotonic()
        self._answered = self._tokens = 0
        self._reply_seconds = 0.0
        self._kept = ""
        self._bars = Bars(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}"),
            console=self._console,
        )
        self._batch = ""
        self._requests: TaskID | None = None
        self._judging: TaskID | None = None
        if self._console.is_terminal:
            self._live.start(refresh=True)

    def asked(self, waiting: int) -> None:
        if self._requests is None:
            self._requests = self._bars.add_task("requests", rest="")
        self._bars.update(self._requests, total=self._answered + waiting)

    def replied(self, reply: Reply, waiting: int) -> None:
        self._answered += 1
        self._reply_seconds += reply.seconds
        self._tokens += reply.usage.prompt_tokens + reply.usage.completion_tokens
        elapsed = time.monotonic() - self._begun
        # Replies of one batch arrive together, each with its share of the batch's seconds.
        left = min(elapsed, self._reply_seconds) / self._answered * waiting
        rest = f"{self._answered / max(elapsed, 0.1):.1f}/s, {self._tokens:,} tokens{_left(left)}"
        self.asked(waiting)
        assert self._requests is not None
        self._bars.update(self._requests, completed=self._answered, rest=rest)
        self._print(f"{self._answered} of {self._answered + waiting} requests, {rest}")

    def batched(self, batch_id: str, done: int, total: int) -> None:
        line = f"batch {batch_id}: {done} of {total} done"
        if self._requests is not None:
            self._bars.update(self._requests, rest=line)
        if line != self._batch:
            self._batch, self._printed = line, -math.inf  # whatever was printed before: this changes rarely
            self._print(line)

    def judged(self, done: int, of: int) -> None:
        if self._judging is None or not done:  # of a later wave
            if self._judging is not None:
                self._bars.remove_task(self._judging)
            self._judging = self._bars.add_task("judging", rest="")
            self._judging_begun = time.monotonic()
        left = (time.monotonic() - self._judging_begun) / done * (of - done) if done else 0.0
        self._bars.update(self._judging, completed=done, total=of, rest=_left(left).removeprefix(", "))
        assert self._outcome is not None
        self._print(f"{done} of {of} pairs judged, {self._outcome.counts.kept} kept{_left(left)}")

    def kept(self, pair: QAPair) -> None:
        self._kept = pair.question

    def _print(self, line: str) -> None:
        """Without a terminal, print the line if the last one is long enough ago."""
        if not self._console.is_terminal and time.monotonic() - self._printed > SECONDS:
            assert self._outcome is not None
            self._printed = time.monotonic()
            self._console.print(f"{self._outcome.path}: {line}", soft_wrap=True)

    def _shown(self) -> RenderableType:
        if self._outcome is None:
            return ""
        lines: list[RenderableType] = [_one_line(str(self._outcome.path))]
        if self._bars.tasks:
            lines.append(self._bars)
        if self._outcome.counts.generated:
            lines.append(Text(funnel_line(self._outcome.counts)))
        if self._kept:
            lines.append(_one_line(f"kept: {self._kept}"))
        if self._outcome.losses:
            lost = self._outcome.losses[-1]
            lines.append(_one_line(f"lost: {lost.pair.question} ({lost.stage}: {lost.reason})"))
        return Group(*lines)


def funnel_line(counts: Counts) -> str:
    """The pairs so far: written, lost at each stage that lost any, kept, and not checked to the end."""
    lost = {stage: getattr(counts, stage) for stage in get_args(Stage)}
    parts = [f"{counts.generated} pairs", *(f"{stage} −{n}" for stage, n in lost.items() if n), f"{counts.kept} kept"]
    waiting = counts.generated - sum(lost.values()) - counts.kept
    return " → ".join(parts) + (f", {waiting} to go" if waiting else "")


def _left(seconds: float) -> str:
    return f", {seconds:.0f} s left" if seconds else ""


def _one_line(text: str) -> Text:
    return Text(" ".join(printable(text).split()), no_wrap=True, overflow="ellipsis")
