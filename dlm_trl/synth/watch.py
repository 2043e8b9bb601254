"""A run's progress on stderr: a bar in a terminal, else a line every ten seconds. `with watched() as on_reply: …`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dlm_trl.synth.replies import parse_reply
from dlm_trl.synth.run import OnReply
from dlm_trl.teachers.protocol import Reply

SECONDS = 10.0


@contextmanager
def watched() -> Iterator[OnReply]:
    """Gives what `synthesize` calls with every reply: it counts pairs and tokens, and the requests that wait."""
    console = Console(stderr=True)
    started = last = time.monotonic()
    done = pairs = tokens = 0
    bar = Progress(
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("asking", total=None, rates="")

    def on_reply(reply: Reply, waiting: int) -> None:
        nonlocal last, done, pairs, tokens
        done += 1
        pairs += len(parse_reply(reply.text).pairs)
        tokens += reply.usage.prompt_tokens + reply.usage.completion_tokens
        now = time.monotonic()
        rates = f"{pairs / (now - started):.1f} pairs/s, {tokens:,} tokens"
        bar.update(task, completed=done, total=done + waiting, rates=rates)
        if not console.is_terminal and now - last > SECONDS:
            last = now
            left = (now - started) / done * waiting
            console.print(f"asking: {done} of {done + waiting} requests, {rates}, {left:.0f} s left")

    with bar:
        yield on_reply
